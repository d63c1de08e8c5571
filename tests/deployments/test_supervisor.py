from __future__ import annotations

import os
from pathlib import Path

from prefect_trainyard.deployments.home import ProcessRecord, YardState
from prefect_trainyard.deployments.settings import YardSettings
from prefect_trainyard.deployments.supervisor import Part, Supervisor


class EndsWhenAsked(Part):
    """A task that ends just when somebody asks whether it has ended."""

    def is_ready(self) -> bool:
        assert self.process is not None
        self.process.wait()
        return super().is_ready()


def test_a_task_that_has_ended_is_no_part_of_a_yard_that_is_ready(tmp_path: Path) -> None:
    supervisor = Supervisor(YardSettings(home=tmp_path))
    supervisor.home.create()
    supervisor.parts = [EndsWhenAsked(name="deploy", command=["true"], environment=dict(os.environ), task=True)]
    url = "http://127.0.0.1:1"
    supervisor.state = YardState(supervisor=ProcessRecord.of(os.getpid()), api_url=url, prefect_url=url, mlflow_url=url)
    write = supervisor.home.write_state

    def written(state: YardState) -> None:
        write(state)
        supervisor._stopping = state.ready

    supervisor.home.write_state = written  # type: ignore[method-assign]
    supervisor._watch()
    state = supervisor.home.read_state()
    assert state is not None and state.ready
    assert state.parts == {}
