"""All services of a facade, made once."""

from __future__ import annotations

from dataclasses import dataclass

from ...blocks import ArtifactStorage
from ..auth import Tokens, load_key
from ..catalog import Catalog
from ..settings import ApiSettings
from .auth import AuthService
from .datasets import DatasetService
from .experiments import ExperimentService
from .files import FileService
from .jobs import JobService
from .projection import Projection
from .projector import Projector
from .reports import ReportService
from .runs import FlowRuns
from .uploads import UploadService


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    catalog: Catalog
    storage: ArtifactStorage
    runs: FlowRuns
    auth: AuthService
    datasets: DatasetService
    uploads: UploadService
    experiments: ExperimentService
    jobs: JobService
    files: FileService
    reports: ReportService
    projector: Projector

    @classmethod
    def build(cls, settings: ApiSettings) -> Services:
        """Make all services; nothing is connected or written yet but the signing key."""
        catalog = Catalog(settings.database_url)
        storage = ArtifactStorage(url=settings.storage_url, endpoint_url=settings.storage_endpoint_url)
        secret = settings.prefect_auth_string
        runs = FlowRuns(settings.prefect_api_url, secret.get_secret_value() if secret else None)
        projection = Projection(catalog, storage, runs)
        return cls(
            catalog=catalog,
            storage=storage,
            runs=runs,
            auth=AuthService(catalog, Tokens(load_key(settings.key_file), settings.token_lifetime_s)),
            datasets=DatasetService(catalog, projection),
            uploads=UploadService(catalog, storage, settings.incoming, settings.free_min_bytes),
            experiments=ExperimentService(catalog, storage, runs, projection),
            jobs=JobService(catalog, storage, runs, projection),
            files=FileService(storage, settings.incoming),
            reports=ReportService(catalog, storage),
            projector=Projector(projection, runs, settings.reconcile_interval_s),
        )
