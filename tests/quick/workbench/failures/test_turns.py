"""Sessions share the lab: whoever deploys waits for who uses it, and a killed session holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.failures.turns import LabBusyError, alone, using


def test_experiments_run_beside_each_other_and_never_beside_a_deployment(tmp_path: Path) -> None:
    lock = tmp_path / "private" / "lock"
    said: list[str] = []
    with using(lock, said.append), using(lock, said.append):
        assert said == []
        with pytest.raises(LabBusyError, match="another session"), alone(lock, said.append, patience_s=0.3):
            pass
        assert len(said) == 1
    with (
        alone(lock, said.append),
        pytest.raises(LabBusyError),
        using(lock, said.append, patience_s=0.1),
    ):
        pass
    with alone(lock, said.append):
        pass


def test_a_session_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom workbench.failures.turns import alone\n"
        "with alone(Path(sys.argv[1]), print):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LabBusyError), using(lock, lambda step: None, patience_s=0.1):
            pass
        other.kill()
        other.wait(10)
    with using(lock, lambda step: None, patience_s=5):
        pass
