"""All services of a facade, made once."""

from __future__ import annotations

from dataclasses import dataclass

from ...blocks import ArtifactStorage
from ...blocks.reach import Outbound
from ...deployments.handover import LOOK_S, Reaper
from ...schemas.jobs import WORK_POOL
from ..auth import Tokens, load_key
from ..catalog import Catalog
from ..settings import ApiSettings
from .accounts.auth import AuthService
from .accounts.idempotency import IdempotencyKeys
from .accounts.rates import Budget
from .accounts.secrets import SecretBox
from .accounts.signing import SigningService
from .accounts.usage import UsageService
from .bundles.cleaning import BundleCleaning
from .bundles.downloads import BundleDownloads
from .bundles.intake import BundleIntake
from .bundles.trainings import TrainingService
from .commands.code import CodeStore
from .commands.commands import CommandService
from .commands.measures import MeasureService
from .commands.projects import ProjectService
from .commands.sessions import SessionService
from .commands.variables import VariableService
from .data.datasets import DatasetService
from .data.pulls import PullService
from .data.uploads import UploadService
from .data.workspaces import WorkspaceService
from .experiments.base import BaseExperimentService
from .experiments.experiments import ExperimentService
from .experiments.publishing import PublishingService
from .experiments.registry import ModelRegistry
from .experiments.saved_specs import SavedSpecs
from .files.files import FileService
from .files.follow import FollowService
from .files.reports import ReportService
from .jobs.busy import BusyJobs
from .jobs.jobs import JobService
from .jobs.limits import LimitService
from .jobs.reasons import Reasons
from .jobs.runs import FlowRuns
from .jobs.schedules import UpcomingRuns
from .jobs.settling import Settler
from .jobs.sweeps import SweepService
from .jobs.trains import TrainService
from .jobs.trials import Trials
from .jobs.variables import VariableBook
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
    signing: SigningService
    datasets: DatasetService
    uploads: UploadService
    pulls: PullService
    workspaces: WorkspaceService
    experiments: ExperimentService
    base: BaseExperimentService
    publishing: PublishingService
    registry: ModelRegistry
    saved_specs: SavedSpecs
    jobs: JobService
    sweeps: SweepService
    trains: TrainService
    trainings: TrainingService
    bundle_downloads: BundleDownloads
    files: FileService
    reports: ReportService
    usage: UsageService
    follow: FollowService
    cleanup: CleanUp
    projects: ProjectService
    commands: CommandService
    code: CodeStore
    measures: MeasureService
    variables: VariableService
    sessions: SessionService
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
        trials = Trials(catalog, runs, busy)
        projection = Projection(catalog, storage, runs, settler, progress, busy, trials)
        workers = OnlineWorkers(runs, settings.command_pool)
        upcoming = UpcomingRuns(runs)
        intake = BundleIntake(catalog, storage, settings.incoming, settings.free_min_bytes)
        reasons = Reasons(workers, settings.prices)
        usage = UsageService(catalog, storage, runs, settings.prices)
        limits = LimitService(catalog, runs, projection, busy)
        mlflow = MlflowRuns(settings.mlflow_url)
        cleanup = CleanUp(catalog, storage, runs, mlflow, projection, usage)
        keys = IdempotencyKeys(catalog)
        box = SecretBox(settings.secrets_key_file)
        variables = VariableBook(box)
        base = BaseExperimentService(storage)
        registry = ModelRegistry(settings.mlflow_url)
        outbound = Outbound(settings.private_hosts)
        uploads = UploadService(catalog, storage, settler, settings.incoming, settings.free_min_bytes)
        workspaces = WorkspaceService(catalog, box, outbound)
        pulls = PullService(
            catalog, uploads, workspaces, box, outbound, settings.pull_max_bytes, settings.free_min_bytes
        )
        sweeps = SweepService(catalog, storage, settings.prices)
        jobs = JobService(catalog, storage, runs, projection, settler, busy, reasons, variables, sweeps)
        projects, org_variables = ProjectService(catalog), VariableService(catalog, box)
        budget = Budget(settings.requests_per_s, settings.requests_burst)
        auth = AuthService(catalog, Tokens(load_key(settings.key_file), settings.token_lifetime_s), budget)
        garbage = Garbage(catalog, storage, runs, cleanup, keys, settings.gc_interval_h)
        return cls(
            catalog=catalog,
            storage=storage,
            runs=runs,
            mlflow=mlflow,
            auth=auth,
            signing=SigningService(catalog, box),
            datasets=DatasetService(catalog, cleanup, reasons, pulls, variables),
            uploads=uploads,
            pulls=pulls,
            workspaces=workspaces,
            saved_specs=SavedSpecs(catalog),
            experiments=ExperimentService(catalog, storage, runs, cleanup, reasons, base, variables),
            base=base,
            publishing=PublishingService(catalog, storage, registry),
            registry=registry,
            jobs=jobs,
            sweeps=sweeps,
            trains=TrainService(catalog, upcoming),
            trainings=TrainingService(catalog, storage, jobs, reasons, workers, intake),
            bundle_downloads=BundleDownloads(storage, settings.incoming),
            files=FileService(storage, settings.incoming),
            reports=ReportService(catalog, storage),
            usage=usage,
            follow=FollowService(catalog, storage, settings.followers_max),
            cleanup=cleanup,
            projects=projects,
            commands=CommandService(catalog, jobs, reasons, projects, org_variables, workers, box),
            code=CodeStore(catalog, storage, settings.incoming, settings.free_min_bytes),
            measures=MeasureService(storage, mlflow),
            variables=org_variables,
            sessions=SessionService(catalog, auth, box),
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
                    Chore(name="The accounts of sweeps", every_s=30.0, do=usage.note_sweeps),
                    Chore(name="The look at trials", every_s=5.0, do=trials.stop_leftovers),
                    Chore(name="The look at workers", every_s=5.0, do=workers.refresh),
                    Chore(name="The look at schedules", every_s=10.0, do=upcoming.refresh),
                    Chore(name="The look for lost runs", every_s=LOOK_S, do=reaper.look),
                    Chore(
                        name="The purge of what was deleted", every_s=settings.reconcile_interval_s, do=cleanup.purge
                    ),
                    Chore(name="The look at bundles", every_s=3600.0, do=BundleCleaning(catalog).collect),
                    Chore(name="The clean-up", every_s=60.0, do=garbage.collect_when_due),
                ],
            ),
            reaper=reaper,
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self.pulls.close()
        await self.runs.close()
        await self.reaper.close()
        await self.mlflow.close()
        await self.registry.close()
        await self.catalog.close()
