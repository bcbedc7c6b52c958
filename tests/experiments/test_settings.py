import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import language_model, pos_tagging, weather_forecast
from experiments import settings
from experiments.errors import InputError
from experiments.tasks import TASKS

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = "--config=configs/pos_tagging.py"


def parse(*args):
    return settings.parse(["main", *args])


def test_fields_are_overridden_and_the_workdir_is_named_after_the_config():
    config, options = parse(
        f"{CONFIG}:smoke", "--config.rates=(0.25,)", "--config.data.min_count=7"
    )
    assert (config.rates, config.data.min_count) == ((0.25,), 7)
    assert options == (Path("runs/pos_tagging-smoke"), False, False, None)
    assert parse(CONFIG, "--resume")[1].resume


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "a config is needed: --config=configs/pos_tagging.py"),
        (
            ["--config=configs/resnet50.py"],
            "the task resnet50 only plans a training: use python -m experiments.tpu_plan",
        ),
        ([CONFIG, "extra"], "every argument must be a flag: got 'extra'"),
        *(
            (
                [CONFIG, f"--config.{field}=1"],
                f"config has no field {field.partition('.')[0]}{hint}: it has batch_size, "
                "checkpoint_every, data, dropout, dtype, epochs, features, hidden, mesh, model, "
                "name, optimizer, patience, rate_schedule, rates, recurrent_dropout, "
                "regularizers, seeds, steps_per_call, task",
            )
            for field, hint in (
                ("foo", ""),
                ("seed", " (did you mean seeds?)"),
                ("optimzer.learning_rate", " (did you mean optimizer?)"),
            )
        ),
        (
            [CONFIG, "--config.name.x=1"],
            "config.name is one value without fields: got --config.name.x=1",
        ),
        ([CONFIG, "--qqq=1"], "Unknown command line flag 'qqq'"),
        (
            ["--config=no.py"],
            "cannot read the config: [Errno 2] No such file or directory: 'no.py'",
        ),
        (
            [f"{CONFIG}:foo"],
            "the variant of pos_tagging must be tagger, classic, seq2seq or smoke: got 'foo'",
        ),
        (
            [CONFIG, "--config.seeds=many"],
            "flag --config.seeds=many: invalid literal for int() with base 10: 'many'",
        ),
        (
            [CONFIG, "--config.task=poetry"],
            f"config.task must be one of {', '.join(TASKS)}: got 'poetry'",
        ),
        (
            [CONFIG, "--config.model=lstm"],
            "config.model must be one of tagger, seq2seq: got 'lstm'",
        ),
        (
            [CONFIG, "--config.regularizers=('none','Drop')"],
            "each of config.regularizers must be one of none, Dropout, SpatialDropout1D, "
            "TimestepDropout, FeatureDropout, SampleDropout, RecurrentDropout: got 'Drop'",
        ),
        (
            [CONFIG, "--config.dtype=float16"],
            "config.dtype must be one of float32, bfloat16: got 'float16'",
        ),
        (
            [CONFIG, "--config.optimizer.lr=1"],
            "config.optimizer has no field lr: it has accumulate, clip_norm, learning_rate, "
            "momentum, name, schedule, warmup_steps, weight_decay",
        ),
        (
            [CONFIG, "--config.optimizer.clip_norm=-1"],
            "config.optimizer.clip_norm must be a finite number of at least 0: got -1.0",
        ),
        *(
            (
                [CONFIG, f"--config.{field}=-1"],
                f"config.{field} must be at least 0: got -1",
            )
            for field in ("steps_per_call", "checkpoint_every")
        ),
        (
            [CONFIG, "--config.rate_schedule.steps=0"],
            "config.rate_schedule.steps must be at least 1: got 0",
        ),
        (
            [CONFIG, "--config.rates=(0.1,1.5)"],
            "each of config.rates must be a number in [0, 1]: got 1.5",
        ),
        (
            [CONFIG, "--config.rates=(0.5,)", "--config.rates=(0.5,)"],
            "config.rates must not have a value twice, and a flag that is given twice adds its "
            "values: got (0.5, 0.5)",
        ),
        (
            [CONFIG, "--config.recurrent_dropout=1.5"],
            "config.recurrent_dropout must be a number in [0, 1]: got 1.5",
        ),
        ([CONFIG, "--config.rates=()"], "config.rates must not be empty"),
        ([CONFIG, "--config.seeds=0"], "config.seeds must be at least 1: got 0"),
        ([CONFIG, "--config.data.min_count=0"], "config.data.min_count must be at least 1: got 0"),
        (
            [CONFIG, "--config.data.test_sentences=-1"],
            "config.data.test_sentences must be at least 0: got -1",
        ),
        (
            [CONFIG, "--config.rates=(True,)"],
            "each of config.rates must be a number in [0, 1]: got True",
        ),
        *(
            (
                [CONFIG, f"--config.name={name}"],
                f"config.name must be the name of a folder, without a path: got {name!r}",
            )
            for name in ("", ".", "..", "../x", "/absolute/x", "a/b", "a/", "a\nb")
        ),
        (
            [CONFIG, "--config.seeds=99999999999"],
            "config.seeds must be at most 2147483647: got 99999999999",
        ),
        (
            [CONFIG, "--flagfile=no"],
            "ERROR:: Unable to open flagfile: [Errno 2] No such file or directory: 'no'",
        ),
        *(
            (
                [CONFIG, f"--config.optimizer.learning_rate={rate}"],
                f"config.optimizer.learning_rate must be a finite number above 0: got {rate}",
            )
            for rate in ("0.0", "-0.1", "nan", "inf")
        ),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(args, message):
    with pytest.raises(InputError) as caught:
        parse(*args)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "the config file fails: SyntaxError: invalid syntax (my.py, line 1)"),
        ("import nothing_at_all", "the config file fails: ModuleNotFoundError: No module named"),
        ("x = {}['a']", "the config file fails: KeyError: 'a'"),
        ("x = {}.a", "the config file fails: AttributeError: 'dict' object has no attribute 'a'"),
        ("x = 1 / 0", "the config file fails: ZeroDivisionError: division by zero"),
        ("def get_config(): return 1", "the config file fails: AttributeError: 'int' object"),
        ("raise SystemExit(3)", "the config file fails: SystemExit: 3"),
        ("raise BaseException('a\\nb')", "the config file fails: BaseException: a b"),
        ("raise RuntimeError('long ' * 500)", "the config file fails: RuntimeError: long long"),
        ("def get_config(): raise ValueError('no such variant')", "no such variant"),
        ("def get_config(): raise ValueError", "the config file fails: ValueError"),
        ("def get_config(a, b): pass", "the config file fails: TypeError: get_config() missing 2"),
        ("def get_config(): return None", "config must be a ConfigDict: got None"),
        (
            "import ml_collections as m\ndef get_config(): return m.ConfigDict({'name': ''})",
            "config needs the field task",
        ),
    ],
)
def test_a_config_file_that_fails_gets_one_sentence(tmp_path, text, message):
    (tmp_path / "my.py").write_text(text)
    with pytest.raises(InputError) as caught:
        parse(f"--config={tmp_path / 'my.py'}")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 400


AWKWARD = (
    *("", "a", "a\nb", b"a", None, True, 2.5, math.nan, math.inf, -1, 10**30, 1j),
    *((), [], {}, {1}, {"a": 1}, (None,), ([],), ("none", "none"), range(3), object(), len),
    *(np.int64(3), np.float32(0.5), np.ones(2), Path("a"), ConfigDict({"a": len})),
)
ALL = [
    (configs, part, field)
    for configs in (pos_tagging, language_model, weather_forecast)
    for part in ("", "data", "optimizer", "rate_schedule")
    for field in [*(configs.get_config()[part] if part else configs.get_config()), "new"]
]


@pytest.mark.parametrize(("configs", "part", "field"), ALL)
def test_a_field_of_any_type_is_usable_or_gets_one_sentence(configs, part, field):
    for value in AWKWARD:
        config = configs.get_config("smoke")
        place = config[part] if part else config
        with place.unlocked(), place.ignore_type():
            place[field] = value
        refused = None
        try:
            settings.check(config)
        except InputError as error:
            refused = str(error)
        if refused:
            assert re.match(
                r"(each of )?config[. ]|results cannot hold the config as JSON: ", refused
            )
        else:  # nothing that would fail at the end of the run
            json.dumps(config.to_dict(), allow_nan=False)
            assert field == "new" or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("value", ["a", None, 2.5, math.nan, True, np.int64(3)])
def test_a_size_must_be_a_whole_number(config, value):
    with config.ignore_type():
        config.seeds = value
    with pytest.raises(InputError) as caught:
        settings.check(config)
    assert str(caught.value) == f"config.seeds must be a whole number: got {value!r}"


def test_a_workdir_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parse(CONFIG, "--workdir=~/r")[1].workdir) == "/home/me/r"
    assert str(parse(CONFIG, "--workdir=~nobody-here/r")[1].workdir) == "~nobody-here/r"


@pytest.mark.parametrize("field", ["rates", "regularizers"])
def test_a_list_of_one_must_still_be_a_tuple(config, field):
    with config.ignore_type():
        config[field] = "none"
    with pytest.raises(InputError, match=f"^config.{field} must be a tuple: got 'none'$"):
        settings.check(config)


def test_a_mistake_in_the_checks_is_not_blamed_on_the_user(monkeypatch):
    def broken(config):
        raise KeyError("mine")

    monkeypatch.setattr(settings, "check", broken)
    with pytest.raises(KeyError, match="mine"):
        parse(CONFIG)
