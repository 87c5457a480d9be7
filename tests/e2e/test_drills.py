"""Every drill: its fault is caught under the right name, and its healthy twin is spared."""

import pytest

from posttrain.drills import DRILLS, run_drill


@pytest.mark.parametrize("name", DRILLS.names())
def test_the_fault_is_caught_and_the_healthy_twin_spared(name, tmp_path):
    report = run_drill(DRILLS.get(name), tmp_path)
    assert report.healthy_passes, report.healthy_diagnosis
    assert report.caught, report.diagnosis
