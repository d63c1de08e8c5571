"""All services of a facade, made once."""

from __future__ import annotations

from dataclasses import dataclass

from ...blocks import ArtifactStorage
from ...deployments.handover import LOOK_S, Reaper
from ...schemas.jobs import WORK_POOL
from ..auth import Tokens, load_key
from ..catalog import Catalog
from ..settings import ApiSettings
from .accounts.auth import AuthService
from .accounts.idempotency import IdempotencyKeys
from .accounts.usage import UsageService
from .data.datasets import DatasetService
from .data.uploads import UploadService
from .experiments.experiments import ExperimentService
from .files.files import FileService
from .files.follow import FollowService
from .files.reports import ReportService
from .jobs.busy import BusyJobs
from .jobs.jobs import JobService
from .jobs.limits import LimitService
from .jobs.reasons import Reasons
from .jobs.runs import FlowRuns
from .jobs.settling import Settler
from .jobs.workers import OnlineWorkers
from .projection.progress import ProgressBook
from .projection.projection import Projection
from .projection.projector import Chore, Projector
from .upkeep.cleanup import CleanUp
from .upkeep.garbage import Garbage
from .upkeep.mlflow_runs import MlflowRuns


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
    usage: UsageService
    follow: FollowService
    cleanup: CleanUp
    keys: IdempotencyKeys
    garbage: Garbage
    mlflow: MlflowRuns
    projector: Projector
    reaper: Reaper

    @classmethod
    def build(cls, settings: ApiSettings) -> Services:
        """Make all services; nothing is connected or written yet but the signing key."""
        catalog = Catalog(settings.database_url)
        storage = ArtifactStorage(url=settings.storage_url, endpoint_url=settings.storage_endpoint_url)
        secret = settings.prefect_auth_string
        auth_string = secret.get_secret_value() if secret else None
        runs = FlowRuns(settings.prefect_api_url, auth_string)
        reaper = Reaper(settings.prefect_api_url, auth_string, WORK_POOL)
        busy = BusyJobs()
        settler = Settler(catalog, storage, runs, busy)
        progress = ProgressBook(catalog, storage)
        projection = Projection(catalog, storage, runs, settler, progress, busy)
        workers = OnlineWorkers(runs)
        reasons = Reasons(workers, settings.prices)
        usage = UsageService(catalog, storage, runs, settings.prices)
        limits = LimitService(catalog, runs, projection, busy)
        mlflow = MlflowRuns(settings.mlflow_url)
        cleanup = CleanUp(catalog, storage, runs, mlflow, projection, usage)
        keys = IdempotencyKeys(catalog)
        garbage = Garbage(catalog, storage, runs, cleanup, keys, settings.gc_interval_h)
        return cls(
            catalog=catalog,
            storage=storage,
            runs=runs,
            mlflow=mlflow,
            auth=AuthService(catalog, Tokens(load_key(settings.key_file), settings.token_lifetime_s)),
            datasets=DatasetService(catalog, cleanup, reasons),
            uploads=UploadService(catalog, storage, settler, settings.incoming, settings.free_min_bytes),
            experiments=ExperimentService(catalog, storage, runs, cleanup, reasons),
            jobs=JobService(catalog, storage, runs, projection, settler, busy, reasons),
            files=FileService(storage, settings.incoming),
            reports=ReportService(catalog, storage),
            usage=usage,
            follow=FollowService(catalog, storage, settings.followers_max),
            cleanup=cleanup,
            keys=keys,
            garbage=garbage,
            projector=Projector(
                projection,
                progress,
                runs,
                settings.reconcile_interval_s,
                [
                    Chore(name="The look at limits", every_s=1.0, do=limits.enforce),
                    Chore(name="The accounts", every_s=1.0, do=usage.account_all),
                    Chore(name="The look at workers", every_s=5.0, do=workers.refresh),
                    Chore(name="The look for lost runs", every_s=LOOK_S, do=reaper.look),
                    Chore(
                        name="The purge of what was deleted", every_s=settings.reconcile_interval_s, do=cleanup.purge
                    ),
                    Chore(name="The clean-up", every_s=60.0, do=garbage.collect_when_due),
                ],
            ),
            reaper=reaper,
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self.runs.close()
        await self.reaper.close()
        await self.mlflow.close()
        await self.catalog.close()
