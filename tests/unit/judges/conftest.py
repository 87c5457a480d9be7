import pytest
from judge_server import JudgeServer, constitution

from posttrain.generation import EndpointGenerator
from posttrain.judges import PairwiseJudge


@pytest.fixture(scope="session")
def running_server():
    with JudgeServer() as server:
        yield server


@pytest.fixture
def server(running_server):
    running_server.accuracy, running_server.place, running_server.length, running_server.mumble = 1.0, 0.0, 0.0, 0.0
    running_server.asked, running_server.finish = 0, "stop"
    return running_server


@pytest.fixture
def make_judge(server):
    def make(**changes):
        return PairwiseJudge(EndpointGenerator(server.url, "served", concurrency=8), constitution(**changes), name="served")

    return make
