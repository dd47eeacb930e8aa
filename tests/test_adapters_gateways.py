"""Adapters of the logs of LiteLLM, vLLM semantic-router, weave and hydra: each trap of each gateway."""

import json

import pytest
from gateway_records import dropped, fails, one, records, rows

from jrouter.encoders.texts import last_turns
from jrouter.io.adapters import ADAPTERS, Dropped, litellm
from jrouter.io.adapters.weave import CORRECTED

# LiteLLM.


def test_litellm_drops_what_is_no_row():
    told = {"cache hit": 1, "answered after a fallback": 1, "failed call": 1}
    assert dropped("litellm_spend") == told | {"no chat call": 1}
    assert dropped("litellm_payload") == told


def test_litellm_reads_back_what_the_strategy_wrote():
    known = {
        litellm.LAMBDA: 300.0,
        litellm.PROPENSITY: 0.9,
        litellm.ROUTER: "abc",
        litellm.ALLOWED_MODELS: ["gpt-small", "gpt-large"],
    }
    expected = {"lam": 300.0, "propensity": 0.9, "router": "abc", "allowed_models": ["gpt-small", "gpt-large"]}
    for name in ("litellm_spend", "litellm_payload"):
        for metadata in ({"spend_logs_metadata": known}, json.dumps({"spend_logs_metadata": json.dumps(known)})):
            assert expected.items() <= one(name, metadata=metadata).items()
    # a user's own names, where jrouter's are not there
    assert rows("litellm_spend")["chatcmpl-3"]["propensity"] == 0.25
    assert rows("litellm_spend")["chatcmpl-3"]["allowed_models"] == ["llama-local", "gpt-4o"]
    assert rows("litellm_payload")["chatcmpl-a"]["propensity"] == 1.0  # jrouter's, not the user's 0.5
    assert "propensity" not in rows("litellm_spend")["chatcmpl-2"]  # missing is never 1


def test_litellm_takes_the_name_that_the_strategy_knew():
    assert rows("litellm_payload")["chatcmpl-a"]["model"] == "gpt-small"  # the deployment's
    assert rows("litellm_spend")["chatcmpl-1"]["model"] == "openai/gpt-4o-mini"  # with the provider
    assert one("litellm_spend", metadata="{}")["model"] == "gpt-4o-mini"
    assert one("litellm_spend", metadata="{}", model="")["model"] == "9f2c0e"
    other = {"spend_logs_metadata": {"allowed_models": ["something else"]}}
    assert one("litellm_spend", metadata=other)["model"] == "gpt-4o-mini"  # reading the log will reject the row
    # What the strategy wrote comes before what the gateway calls it.
    drawn = {"spend_logs_metadata": {litellm.MODEL: "best", litellm.ALLOWED_MODELS: ["best", "gpt-4o-mini"]}}
    for name in ("litellm_spend", "litellm_payload"):
        assert one(name, metadata=drawn)["model"] == "best"
        assert (litellm.MODEL in dict(ADAPTERS[name].mapping)["model"]) and one(name, metadata={})["model"] != "best"


def test_litellm_costs_of_0_are_missing_unless_confirmed():
    spend, payload = rows("litellm_spend"), rows("litellm_payload")
    assert "cost" not in spend["chatcmpl-2"] and "cost" not in payload["chatcmpl-b"]
    assert spend["chatcmpl-3"]["cost"] == 0.0 and payload["call-c"]["cost"] == 0.0
    assert (spend["chatcmpl-2"]["input_tokens"], spend["chatcmpl-2"]["output_tokens"]) == (12, 40)  # for prices
    assert one("litellm_payload", response_cost=None)["cost"] == 0.000045  # from the breakdown


def test_litellm_queries():
    spend, payload = rows("litellm_spend"), rows("litellm_payload")
    assert last_turns(spend["chatcmpl-1"]["query"], 1) == "What is a monad?"
    assert "query" not in spend["chatcmpl-3"]  # messages "{}", and no request stored
    assert last_turns(spend["chatcmpl-5"]["query"], 1) == "Hello?"  # realtime
    assert "query" not in spend["chatcmpl-6"]  # redacted
    assert payload["call-c"]["request_id"] == "call-c"


def test_litellm_says_where_it_cut_a_query():
    cut = rows("litellm_spend")["chatcmpl-4"]
    assert cut["truncated"] is True and "truncated" not in rows("litellm_spend")["chatcmpl-1"]
    assert last_turns(cut["query"], 1) == "Summarise: once upon a ... ever after.\n[image_url]"
    assert rows("litellm_payload")["call-c"] | {"query": ""} == {
        "request_id": "call-c",
        "query": "",
        "model": "llama-local",
        "cost": 0.0,
        "timestamp": 1791190804.0,
        "truncated": True,
    }
    assert rows("litellm_payload")["call-c"]["query"] == "Write a haiku about the sea ... "


def test_litellm_classifier_scores_are_no_scores():
    assert records("litellm_spend")[1]["metadata"]["routing_decision"]["score"] == 0.97
    assert all("score" not in row for name in ("litellm_spend", "litellm_payload") for row in rows(name).values())


def test_litellm_malformed():
    fails("litellm_spend", "spend: found -0.1", spend=-0.1)
    fails("litellm_spend", "spend: found 'free'", spend="free")
    fails("litellm_spend", "prompt_tokens: found 1.5", prompt_tokens=1.5)
    fails("litellm_spend", "metadata: found 'x'", metadata="x")
    fails("litellm_spend", "metadata: found [1]", metadata=[1])
    fails("litellm_payload", "messages: found [1, 2]", messages=[1, 2])
    for value in (0, -0.5, 1.5, float("nan"), True, "often"):
        told = "metadata.spend_logs_metadata.jrouter_propensity: found"
        fails("litellm_payload", told, metadata={"spend_logs_metadata": {litellm.PROPENSITY: value}})
    told = "metadata.spend_logs_metadata.allowed_models: found 'a,b'"
    fails("litellm_payload", told, metadata={"spend_logs_metadata": {"allowed_models": "a,b"}})


# vLLM semantic-router.


def test_vllm_keeps_completed_answers_of_models():
    assert dropped("vllm_replay") == {"cache hit": 1, "not completed": 2}
    assert one("vllm_replay", lifecycle_state=None)["model"] == "qwen-72b"  # records older than the field
    assert one("vllm_replay", lifecycle_state="aborted") == Dropped("not completed")
    assert one("vllm_replay", response_status=503) == Dropped("not completed")


def test_vllm_scores_are_of_the_model_and_absent_may_mean_0():
    found = rows("vllm_replay")
    assert found["r-1"]["score"] == 0.9  # the latest on the model: not the route's, not the older one
    assert found["r-2"]["score"] == 0.0 and found["r-3"]["score"] == 1.0  # by verdict alone
    assert "score" not in found["r-4"]  # a verdict that says nothing
    outcome = {"target": "model", "target_ref": "another", "verdict": "good_fit", "score": 1}
    assert "score" not in one("vllm_replay", outcomes=[outcome])


def test_vllm_costs_that_are_absent_are_unknown():
    found = rows("vllm_replay")
    assert found["r-1"]["cost"] == 0.0031 and "cost" not in found["r-2"]
    assert (found["r-2"]["input_tokens"], found["r-2"]["output_tokens"]) == (9, 80)
    assert found["r-3"]["cost"] == 0.0  # said to be so
    fails("vllm_replay", "currency: found 'EUR'", currency="EUR")


def test_vllm_has_no_propensity_and_allowed_models_with_the_model_among_them():
    found = rows("vllm_replay")
    assert all("propensity" not in row for row in found.values())
    assert records("vllm_replay")[0]["learning"]["adaptation"]["sampling"] == {"used": True, "seed": 42}
    assert found["r-1"]["allowed_models"] == ["qwen-72b", "qwen-7b"]
    assert "allowed_models" not in found["r-2"]


def test_vllm_queries_cut_short():
    found = rows("vllm_replay")
    assert last_turns(found["r-3"]["query"], 1) == "Summarise this contract: the whole of it"
    assert found["r-4"]["query"] == "Summarise this" and found["r-4"]["truncated"] is True
    assert "truncated" not in found["r-1"] and "truncated" not in found["r-3"]


def test_vllm_offline_records():
    found = rows("vllm_replay")
    assert [found[f"s-9:{turn}"].get("score") for turn in range(4)] == [0.0, 0.5, 1.0, None]
    assert found["s-9:0"]["cost"] == 0.0007 and "cost" not in found["s-9:1"]
    assert found["s-9:0"]["allowed_models"] == ["gpt-4o", "gpt-4o-mini"]
    assert all("query" not in found[f"s-9:{turn}"] for turn in range(4))


# weave and hydra.


def test_weave_drops_what_is_no_row():
    assert dropped("weave") == {"answered after a failover": 1, "failed call": 1, "span of another kind": 1}


def test_weave_thompson_rows_before_the_correction_have_no_propensity():
    found = rows("weave")
    assert "propensity" not in found["w-2"] and "propensity" not in found["w-4"]  # 1/n: of before, and without a time
    assert found["w-3"]["propensity"] == 0.5  # 1/2 of two, but of after
    assert found["w-1"]["propensity"] == 0.5  # of a band of two among three candidates
    assert found["w-5"]["propensity"] == 1.0 and "propensity" not in found["w-6"]
    two = {"candidate_scores": {"claude-sonnet": 1, "b": 0}, "propensity": 0.5}
    for when, trusted in ((CORRECTED.isoformat(), True), ("2026-06-30T23:59:59+00:00", False), ("soon", False)):
        assert ("propensity" in one("weave", timestamp=when, **two)) is trusted
    assert "propensity" in one("weave", timestamp=CORRECTED.timestamp(), **two)
    assert "propensity" not in one("weave", timestamp=CORRECTED.timestamp() - 1, **two)


def test_weave_candidates_are_an_upper_bound_of_allowed_models():
    found = rows("weave")
    assert found["w-1"]["allowed_models"] == ["claude-sonnet", "gpt-5-mini", "qwen-coder"]
    assert found["w-7"]["allowed_models"] == ["claude-sonnet", "gpt-5-mini"]
    assert "allowed_models" not in found["w-6"]  # a pinned model that was no candidate


def test_weave_costs_in_millionths_or_in_usd():
    found = rows("weave")
    assert found["w-1"]["cost"] == pytest.approx(0.006)  # the table's whole numbers
    assert found["w-3"]["cost"] == pytest.approx(0.000032) and found["w-7"]["cost"] == 0.00001  # the export's USD
    assert found["w-2"]["cost"] == pytest.approx(found["w-3"]["cost"])
    assert "cost" not in found["w-5"]  # a subscription paid: not 0
    assert "cost" not in found["w-6"]  # one part is unknown
    fails("weave", "propensity: found 0.0", propensity=0)
    fails("weave", "candidate_scores: found 'none'", candidate_scores="none")


def test_hydra():
    found = rows("hydra")
    assert dropped("hydra") == {"swarm: several models were asked": 1, "answered after a fallback": 1}
    assert (found["t-2"]["propensity"], found["t-2"]["keep_probability"]) == (0.025, 0.2)
    assert "propensity" not in found["t-3"] and "keep_probability" not in found["t-3"]
    assert "query" not in found["t-1"] and found["t-2"]["query"] == "design the schema"
    fails("hydra", "act_prob: found 0.0", act_prob=0)
    fails("hydra", "keep_prob: found 0.0", keep_prob=0)
    fails("hydra", "act_prob: found 1.01", act_prob=1.01)
    fails("hydra", "ts: found [1]", ts=[1])
