"""What the actions of data sets can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ..schemas.specs import Spec, parameter, section
from .box_augment import AugmentOptions
from .box_checks import Outside
from .box_folder import ReadOptions, duplicates

#: A format as the annotation services of the API documents spell it.
FormatWord = Literal["KITTI", "COCO", "PASCAL_VOC"]


class ConversionSpec(Spec):
    """Conversions of image folders have no parameters: the format says all."""


class ClassMapping(Spec):
    """One class that gets another name."""

    key: str = parameter(description="Class in the data set.", min_length=1, max_length=200)
    value: str = parameter(
        description="Its new name; two classes of one name become one, `DontCare` makes regions to ignore.",
        min_length=1,
        max_length=200,
    )


class _ReadingSpec(Spec):
    """How annotations are read."""

    outside: Literal["refuse", "clip"] = parameter(
        "refuse",
        description="What happens to boxes that leave their picture or are empty: the job ends with an error that "
        "names them, or they are cut off at the edge and left out when nothing remains.",
        popular=True,
    )

    def read_options(self, *, masks: bool = False) -> ReadOptions:
        return ReadOptions(outside=Outside(self.outside), masks=masks)


class _MappingSpec(_ReadingSpec):
    target_class_mapping: list[ClassMapping] = parameter(
        [],
        description="Other names for classes; classes that are not in it keep theirs.",
        popular=True,
        max_length=10_000,
    )

    @field_validator("target_class_mapping")
    @classmethod
    def _each_once(cls, mapping: list[ClassMapping]) -> list[ClassMapping]:
        if twice := duplicates(entry.key for entry in mapping):
            raise ValueError(f"the class {twice[0]!r} is there twice")
        return mapping

    @property
    def new_names(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.target_class_mapping}


class KittiConfig(Spec):
    """Pictures are found by the names of their label files; clients write what there is."""

    image_extension: str = parameter(
        ".jpg", description="Ending of the pictures; those with others are found as well.", max_length=20
    )


class ShardsConfig(Spec):
    """The index has no shards; clients write how many they want."""

    num_shards: int = parameter(256, description="Without effect: the index is one file.", ge=1, le=1_000_000)
    tag: str = parameter("", description="Note for yourself.", max_length=200)


class BoxConversionSpec(_MappingSpec):
    """Indexing of a set with boxes."""

    kitti_config: KittiConfig = section(KittiConfig, description="For the format kitti.")
    dataset_convert: ShardsConfig = section(ShardsConfig, description="As conversions to TFRecords want it.")


class FormatsConfig(Spec):
    """From which format to which."""

    input_format: FormatWord | None = parameter(None, description="That of the data set, which is the default.")
    output_format: FormatWord | None = parameter(
        None, description="The default is COCO, and KITTI for a data set in COCO.", popular=True
    )


class FormatConversionSpec(_MappingSpec):
    """annotation_format_convert."""

    data: FormatsConfig = section(FormatsConfig)


class AnalysisSpec(Spec):
    """analyze."""

    figures: bool = parameter(True, description="Whether to draw class balance, sizes and places of boxes.")


class ValidationSpec(Spec):
    """validate has no parameters: it looks at everything."""


class AugmentationSpec(_ReadingSpec):
    """augment. Each number is drawn evenly up to the given one, to both sides of nothing."""

    copies: int = parameter(1, description="Changed copies of each picture.", ge=1, le=100, popular=True)
    keep_originals: bool = parameter(True, description="Whether the new set has the original pictures, too.")
    seed: int = parameter(0, description="The same seed gives the same pictures.", ge=0, le=2**31)
    flip_horizontal: float = parameter(0.5, description="Probability of a mirror image.", ge=0, le=1, popular=True)
    flip_vertical: float = parameter(0.0, description="Probability of an upside-down image.", ge=0, le=1)
    rotation: float = parameter(5.0, description="Degrees.", ge=0, le=180, popular=True)
    shear: float = parameter(0.0, description="Degrees.", ge=0, le=45)
    shift: float = parameter(0.05, description="Share of width and height.", ge=0, le=1)
    zoom: float = parameter(0.2, description="0.5 is 1/1.5 to 1.5 times.", ge=0, le=10)
    brightness: float = parameter(0.2, description="Share of the brightness.", ge=0, le=1)
    contrast: float = parameter(0.2, description="Share of the contrast.", ge=0, le=1)
    saturation: float = parameter(0.2, description="Share of the saturation.", ge=0, le=1)
    hue: float = parameter(0.02, description="Part of the colour circle.", ge=0, le=0.5)
    blur: float = parameter(0.0, description="Radius in pixels.", ge=0, le=50)
    noise: float = parameter(0.0, description="Standard deviation in grey levels.", ge=0, le=255)
    min_visible: float = parameter(0.3, description="Boxes that keep less of their area are left out.", ge=0, le=1)

    def options(self) -> AugmentOptions:
        return AugmentOptions(**self.model_dump(exclude={"outside"}))


class AnchorSpec(Spec):
    """kmeans."""

    size_x: int = parameter(640, description="Width of the network's input in pixels.", ge=1, le=16_384, popular=True)
    size_y: int = parameter(640, description="Height of the network's input in pixels.", ge=1, le=16_384, popular=True)
    num_clusters: int = parameter(9, description="Number of anchors.", ge=1, le=100, popular=True)
    resizing: Literal["letterbox", "stretch"] = parameter(
        "letterbox", description="Whether pictures keep their proportions in the network's input, or fill it."
    )
    min_side: float = parameter(
        1.0, description="Boxes with a side of fewer pixels in the network's input do not count.", ge=0
    )
    seed: int = parameter(0, description="The same seed gives the same anchors.", ge=0, le=2**31)
