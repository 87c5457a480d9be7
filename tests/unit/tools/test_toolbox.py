import threading
import time

import pytest

from posttrain.errors import ConfigError
from posttrain.records import ToolCall
from posttrain.tools import Budget, Caller, Tool, Toolbox, ToolError, tool

CLERK = Caller("clerk", "bank_A")
TREASURER = Caller("treasurer", "bank_A")


class Desk:
    """Tools that count what they did."""

    def __init__(self):
        self.sent = []
        self.reads = 0
        self.fail = None

        @tool
        def balance(account: str) -> str:
            """Balance of an account."""
            self.reads += 1
            return f"{account}: 100"

        @tool(action=True, roles=("treasurer",), cost=2.0)
        def transfer(to: str, amount: float, currency: str = "EUR") -> str:
            """Move money."""
            if self.fail is not None:
                raise self.fail
            time.sleep(0.05)
            self.sent.append((to, amount, currency))
            return f"sent {amount:g} {currency} to {to}"

        @tool(action=True, tenants=("bank_A",))
        def post(text: str, idempotency_key: str = "") -> str:
            """Post an entry."""
            self.sent.append(text)
            return f"entry {len(self.sent)}"

        self.tools = [balance, transfer, post]

    def box(self, caller=TREASURER, **settings):
        return Toolbox(self.tools, caller=caller, **settings)


def ask(box, name, **arguments):
    return box.call(ToolCall(name, arguments))


def test_a_tool_the_caller_may_not_use_is_not_shown_and_a_call_to_it_is_forbidden():
    desk = Desk()
    clerk = desk.box(CLERK)
    assert [item["function"]["name"] for item in clerk.signatures] == ["balance", "post"]
    result = ask(clerk, "transfer", to="x", amount=1)
    assert (result.status, result.is_error, desk.sent) == ("forbidden", True, [])
    assert result.content == "transfer was not called: clerk of bank_A may not use it. Permitted: balance, post."
    other_tenant = desk.box(Caller("treasurer", "retail_B"))
    assert [item["function"]["name"] for item in other_tenant.signatures] == ["balance", "transfer"]
    assert ask(other_tenant, "post", text="x").status == "forbidden"


def test_an_unknown_tool_is_answered_with_the_nearest_one_the_caller_may_use():
    desk = Desk()
    assert ask(desk.box(), "tranfer").content == "There is no tool 'tranfer'; did you mean 'transfer'?"
    assert "transfer" not in ask(desk.box(CLERK), "tranfer").content
    assert ask(desk.box(), "x" * 1_000_000).status == "unknown_tool"
    assert len(ask(desk.box(), "x" * 1_000_000).content) < 300


def test_wrong_arguments_are_told_and_nothing_is_done():
    desk = Desk()
    result = ask(desk.box(), "transfer", to="x", ammount="12,50")
    assert result.status == "invalid_arguments"
    assert result.content == (
        "transfer was not called; 2 problems with its arguments:\n"
        "- ammount is not an argument; did you mean 'amount'?\n"
        "- amount is missing; expected number"
    )
    assert desk.sent == []


@pytest.mark.parametrize("arguments", [None, [], "x", {"to": float("inf")}, {1: 2}, {"to": {1}}])
def test_arguments_that_are_no_json_object_never_raise(arguments):
    assert Desk().box().call(ToolCall("transfer", arguments)).status == "invalid_arguments"


def test_the_same_arguments_of_an_action_are_done_once_however_they_are_written():
    desk = Desk()
    box = desk.box()
    first = ask(box, "transfer", to="x", amount=5)
    assert first.status == "ok"
    for same in ({"to": "x", "amount": 5}, {"amount": 5.0, "to": "x"}, {"to": "x", "amount": 5, "currency": "EUR"}):
        again = ask(box, "transfer", **same)
        assert (again.status, again.content, again.is_error) == ("repeated", first.content, False)
    assert desk.sent == [("x", 5.0, "EUR")]
    assert ask(box, "transfer", to="x", amount=6).status == "ok"
    assert ask(desk.box(), "transfer", to="x", amount=5).status == "ok"  # another episode
    assert ask(box, "balance", account="1").status == ask(box, "balance", account="1").status == "ok"
    assert desk.reads == 2


def test_a_key_decides_where_the_tool_has_one():
    desk = Desk()
    box = desk.box()
    assert ask(box, "post", text="rent", idempotency_key="a").content == "entry 1"
    assert ask(box, "post", text="rent", idempotency_key="b").content == "entry 2"
    again = ask(box, "post", text="rent", idempotency_key="a")
    assert (again.status, again.content) == ("repeated", "entry 1")
    clash = ask(box, "post", text="heating", idempotency_key="a")
    assert clash.status == "invalid_arguments"
    assert "used before with other arguments" in clash.content
    assert desk.sent == ["rent", "rent"]


def test_two_equal_actions_in_one_turn_are_done_once():
    desk = Desk()
    statuses = [result.status for result in desk.box().call_many([ToolCall("transfer", {"to": "x", "amount": 5})] * 3)]
    assert statuses == ["ok", "repeated", "repeated"]
    assert len(desk.sent) == 1


def test_two_equal_actions_from_many_threads_are_done_once():
    desk = Desk()
    box = desk.box()
    results = []
    threads = [threading.Thread(target=lambda: results.append(ask(box, "transfer", to="x", amount=5))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.status for result in results) == ["ok"] + ["repeated"] * 11
    assert {(result.content, result.is_error) for result in results} == {("sent 5 EUR to x", False)}
    assert len(desk.sent) == 1


def test_an_action_interrupted_from_the_keyboard_is_not_begun_again(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    desk = Desk()
    box = desk.box()
    with monkeypatch.context() as patch:
        patch.setattr(box._runner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(box, "transfer", to="x", amount=5)
    again = ask(box, "transfer", to="x", amount=5)
    assert (again.status, again.is_error, desk.sent) == ("repeated", True, [])


def test_an_action_that_declines_may_be_tried_again_and_one_that_broke_may_not():
    desk = Desk()
    box = desk.box()
    desk.fail = ToolError("approval is missing")
    assert ask(box, "transfer", to="x", amount=5).content == "transfer: approval is missing"
    desk.fail = None
    assert ask(box, "transfer", to="x", amount=5).status == "ok"
    desk.fail = RuntimeError("connection lost")
    assert ask(box, "transfer", to="y", amount=5).status == "error"
    desk.fail = None
    again = ask(box, "transfer", to="y", amount=5)
    assert (again.status, again.is_error) == ("repeated", True)
    assert "may have been done" in again.content
    assert desk.sent == [("x", 5.0, "EUR")]


def test_dry_run_checks_everything_and_does_nothing():
    desk = Desk()
    box = desk.box(dry_run=True)
    result = ask(box, "transfer", to="x", amount=5)
    assert (result.status, result.is_error) == ("dry_run", False)
    assert result.content == 'Dry run: would call transfer with {"to": "x", "amount": 5}. Nothing was done.'
    assert ask(box, "transfer", to="x").status == "invalid_arguments"
    assert ask(desk.box(CLERK, dry_run=True), "transfer", to="x", amount=5).status == "forbidden"
    assert ask(box, "balance", account="1").status == "ok"  # reading changes nothing, so it is done
    assert (desk.sent, desk.reads, box.spent.cost) == ([], 1, 0.0)


def test_a_budget_of_calls_ends_an_endless_loop_of_wrong_calls_too():
    box = Desk().box(budget=Budget(max_calls=3))
    results = [ask(box, "balanse") for _ in range(5)]
    assert [result.status for result in results] == ["unknown_tool"] * 3 + ["over_budget"] * 2
    assert results[-1].content == "Not called, the budget is spent: all 3 calls are used. Answer with what is known."


def test_a_budget_of_money_is_never_exceeded_and_only_what_ran_costs():
    desk = Desk()
    box = desk.box(budget=Budget(max_cost=5.0))
    statuses = [ask(box, "transfer", to="x", amount=amount).status for amount in (1, 1, 2, 3, "x")]
    assert statuses == ["ok", "repeated", "ok", "over_budget", "invalid_arguments"]
    assert box.spent.cost == 4.0
    assert ask(box, "balance", account="1").status == "ok"  # costs nothing, so it still fits
    assert len(desk.sent) == 2


def test_a_budget_of_money_holds_for_calls_in_parallel():
    ran = []

    @tool(cost=1.0)
    def quote(n: int) -> int:
        """A paid look-up."""
        ran.append(n)
        return n

    box = Toolbox([quote], caller=CLERK, budget=Budget(max_cost=3))
    statuses = [result.status for result in box.call_many([ToolCall("quote", {"n": n}) for n in range(8)])]
    assert statuses == ["ok"] * 3 + ["over_budget"] * 5
    assert sorted(ran) == [0, 1, 2]


def test_a_budget_of_time_shortens_the_deadline_and_then_refuses():
    @tool(timeout_seconds=30)
    def slow() -> str:
        """Takes its time."""
        time.sleep(5)
        return "late"

    box = Toolbox([slow], caller=CLERK, budget=Budget(max_seconds=0.2))
    started = time.monotonic()
    first, second = ask(box, "slow"), ask(box, "slow")
    assert (first.status, second.status) == ("timeout", "over_budget")
    assert time.monotonic() - started < 3
    assert 0.2 <= box.spent.seconds < 3


@pytest.mark.parametrize("settings", [{"max_calls": -1}, {"max_cost": float("nan")}, {"max_seconds": "10"}, {"max_calls": True}])
def test_a_budget_that_is_no_number_is_refused(settings):
    with pytest.raises(ConfigError, match="budget max_"):
        Budget(**settings)


def test_reads_of_one_turn_run_in_parallel_and_keep_their_order():
    barrier = threading.Barrier(4, timeout=20)

    @tool(timeout_seconds=30)
    def meet(n: int) -> int:
        """Returns when four calls are inside at once."""
        barrier.wait()
        return n

    box = Toolbox([meet], caller=CLERK)
    results = box.call_many([ToolCall("meet", {"n": n}) for n in range(4)])
    assert [result.content for result in results] == ["0", "1", "2", "3"]


def test_a_turn_with_an_action_runs_in_order():
    order = []

    @tool
    def look(n: int) -> int:
        """Look."""
        order.append(n)
        return n

    @tool(action=True)
    def act(n: int) -> int:
        """Act."""
        time.sleep(0.05)
        order.append(n)
        return n

    Toolbox([look, act], caller=CLERK).call_many([ToolCall("act", {"n": 0}), ToolCall("look", {"n": 1}), ToolCall("act", {"n": 2})])
    assert order == [0, 1, 2]


def test_a_tool_without_a_function_is_shown_and_says_that_it_cannot_be_called():
    box = Toolbox([Tool("plan", "Plan.", {"type": "object", "properties": {}})], caller=CLERK)
    assert box.signatures[0]["function"]["name"] == "plan"
    assert ask(box, "plan").status == "unavailable"


def test_two_tools_of_one_name_are_refused():
    desk = Desk()
    with pytest.raises(ConfigError, match="two tools are called 'balance'"):
        Toolbox([*desk.tools, desk.tools[0]], caller=CLERK)
