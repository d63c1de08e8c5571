"""A yard whose parts get killed, and a client that is patient with it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from support import ROOT, Yard, trainyard

T = TypeVar("T")

ORG = "acme"
WORKER = "worker-1"
#: What must answer before the next kill, by the name that the supervisor gives it.
PARTS = ("api", "prefect", "mlflow", WORKER)
READY_S = 120.0
#: `trainyard down` returns a moment before the supervisor is gone.
END_S = 3.0
#: A client gives up after so long; the longest outage that one kill makes is much shorter.
PATIENCE_S = 120.0


class Stuck(Exception):
    """Something that had to happen did not."""


def until(look: Callable[[], T | None], what: str, timeout_s: float, every_s: float = 0.05) -> T:
    """Return the first true answer of `look`."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > end:
            raise Stuck(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(every_s)
    return found


class Rest:
    """A client of the facade. A request that an outage broke is sent again, with the same Idempotency-Key."""

    def __init__(self, url: str, key: str) -> None:
        login = httpx.post(f"{url}/api/v1/login", json={"ngc_api_key": key}, timeout=60).raise_for_status().json()
        self._http = httpx.Client(
            base_url=f"{url}/api/v1/orgs/{ORG}/", headers={"Authorization": f"Bearer {login['token']}"}, timeout=60
        )
        self._lock = threading.Lock()
        self.retries = 0
        #: Answers that no outage excuses.
        self.faults: list[str] = []

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer, whatever outages it takes to get one."""
        headers = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        end = time.monotonic() + PATIENCE_S
        while True:
            problem: object
            try:
                answer = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                problem = error
            else:
                if answer.status_code < 500:
                    return answer
                problem = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code == 500:
                    with self._lock:
                        self.faults.append(f"{method} {path} answered {problem}")
            if time.monotonic() > end:
                raise Stuck(f"{method} {path} got no answer in {PATIENCE_S:.0f} s: {problem}")
            with self._lock:
                self.retries += 1
            time.sleep(0.1)

    def get(self, path: str) -> Any:
        answer = self.send("GET", path)
        if answer.status_code != 200:
            raise Stuck(f"GET {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json()


class FaultyYard:
    """One real yard in a folder of its own, with an experiment on the handwritten digits."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._settings = {f"TRAINYARD_{name.upper()}": value for name, value in settings.items()}
        self._clients: list[Rest] = []

    def start(self) -> None:
        trainyard("up", "--home", str(self.home), "--port", "0", "--detach", OMP_NUM_THREADS="1", **self._settings)
        status = json.loads(trainyard("status", "--home", str(self.home), "--json").stdout)
        self.api_url: str = status["api_url"]
        self.prefect_url: str = status["prefect_url"]
        self.mlflow_url: str = status["mlflow_url"]
        self.prefect = httpx.Client(base_url=f"{self.prefect_url}/api/", timeout=60)
        self.rest = self.client("5.5")

    def stop(self) -> list[psutil.Process]:
        """Stop the yard and return what it left running."""
        for client in self._clients:
            client.close()
        trainyard("down", "--home", str(self.home), check=False)
        with contextlib.suppress(Stuck):
            until(lambda: not self.processes(), "the end of all processes", END_S, every_s=0.1)
        return self.processes()

    def client(self, release: str) -> Rest:
        """Return a client of an own user who speaks this release."""
        made = trainyard(
            *("keys", "create", "--home", str(self.home), "--org", ORG),
            *("--user", f"user{release.replace('.', '')}", "--release", release),
        )
        self._clients.append(Rest(self.api_url, made.stdout.strip()))
        return self._clients[-1]

    def as_yard(self) -> Yard:
        return Yard(self.home, self.api_url, self.prefect_url, self.mlflow_url, "")

    # --- processes

    def pid(self, part: str) -> int:
        return int(self._record()[part]["pid"])

    def _record(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "run" / "yard.json").read_text())["parts"])

    def forkserver(self) -> int | None:
        """Return the process that jobs are forked from."""
        try:
            children = psutil.Process(self.pid(WORKER)).children()
        except psutil.NoSuchProcess:
            return None
        for child in children:
            try:
                if any("forkserver" in word for word in child.cmdline()):
                    return child.pid
            except psutil.Error:
                continue
        return None

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs for this yard, told by its working folder and its environment."""
        mark, found = str(self.home), []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.cwd().startswith(mark) or process.environ().get("TRAINYARD_HOME") == mark
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def is_ready(self) -> bool:
        """Tell whether every part is up; the worker is when its forkserver is warm."""
        try:
            record = self._record()
            ready = (self.home / "run" / f"{WORKER}.ready").read_text().split()[0]
            if int(ready) != record[WORKER]["pid"] or any(not psutil.pid_exists(record[p]["pid"]) for p in PARTS):
                return False
            return all(
                httpx.get(url, timeout=2).status_code == 200
                for url in (
                    f"{self.api_url}/api/v1/readiness",
                    f"{self.prefect_url}/api/health",
                    f"{self.mlflow_url}/health",
                )
            )
        except (OSError, ValueError, KeyError, IndexError, httpx.HTTPError):
            return False

    def wait_until_ready(self) -> None:
        until(self.is_ready, "the yard to be complete again", READY_S, every_s=0.1)

    # --- what jobs work on

    def experiment(self) -> str:
        """Upload digits and return the path of an experiment on them."""
        digits = self.folder / "digits"
        if not digits.exists():
            subprocess.run(
                [sys.executable, str(ROOT / "examples" / "digits.py"), str(digits)], check=True, capture_output=True
            )
        made = self.rest.send("POST", "datasets", {"type": "image_classification", "format": "classification_pyt"})
        dataset = made.json()["id"]
        with (digits / "eval.tar.gz").open("rb") as stream:
            self.rest._http.post(f"datasets/{dataset}:upload", files={"file": stream}).raise_for_status()
        experiment = self.rest.send("POST", "experiments", {"network_arch": "classification_pyt"}).json()["id"]
        chosen = {"train_datasets": [dataset], "eval_dataset": dataset}
        self.rest.send("PATCH", f"experiments/{experiment}", chosen).raise_for_status()
        return f"experiments/{experiment}"

    def states(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """Return Prefect's flow runs by id."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), 200):
            body = {"flow_runs": {"id": {"any_": ids[start : start + 200]}}, "limit": 200}
            answer = self.prefect.post("flow_runs/filter", json=body).raise_for_status()
            found |= {run["id"]: run for run in answer.json()}
        return found

    # --- files of jobs, on the local storage

    @property
    def storage(self) -> Path:
        return self.home / "storage" / ORG

    def job_folder(self, job_id: str) -> Path:
        return self.storage / "jobs" / job_id

    def log(self, job_id: str) -> Path:
        return self.storage / "logs" / f"{job_id}.txt"


@contextmanager
def faulty_yard(folder: Path, **settings: str) -> Iterator[FaultyYard]:
    """Give a yard that is up; it is down afterwards whatever happens."""
    yard = FaultyYard(folder, **settings)
    try:
        yard.start()
        yield yard
    finally:
        yard.stop()
