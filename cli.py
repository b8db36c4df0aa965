"""What the entry points share: the --config flag; a user's mistake is one line and exit code 2.

An OSError, such as a full disk, is one line, too, and exit code 1.

`--config=FILE[:RECIPE]` loads a Python file and calls its `get_config([RECIPE])`; the file runs as
any code does. `--config.FIELD=VALUE` then changes a field, by ml_collections' rules.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import math
import operator
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import runtime
from configs import default

WORKDIR = flags.DEFINE_string("workdir", None, "A run's folder; train.py resumes a run there.")


def checkpoint_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """`--step` and `--truncation`, of entry points that draw samples of a run."""
    step = flags.DEFINE_string(
        "step", None, "A checkpoint's step; without it the latest.", allow_override=True
    )
    truncation = flags.DEFINE_float(
        "truncation",
        None,
        "Latents beyond it are drawn anew: less variety.",
        lower_bound=1e-3,
        allow_override=True,
    )
    return step, truncation


def choose_step(steps: list[int], step: str | None) -> int:
    """The checkpoint that --step names, the last of `steps` if it names none.

    Raises:
      app.UsageError: there is no such checkpoint.
    """
    if step is None:
        return steps[-1]
    if not step.isdecimal() or int(step) not in steps:
        there = ", ".join(map(str, steps))
        raise app.UsageError(f"--step={step} has no checkpoint: there are {there}")
    return int(step)


def remember_signals() -> list[int]:
    """A list that gets SIGINT's or SIGTERM's number when one comes; a second one ends at once."""
    signals: list[int] = []

    def remember(number: int, _: Any) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    return signals


def run(main: Callable[[list[str]], None], takes_config: bool = False) -> None:
    """`absl.app.run`, where a user's mistake is one line and exit code 2."""

    def guarded(argv: list[str]) -> None:
        if flags.FLAGS.verbosity == logging.INFO:  # absl's default; Orbax tells all it does there
            logging.set_verbosity(logging.WARNING)
            logging.get_absl_handler().addFilter(_not_of_orbax)
            threading.excepthook = _end_of_thread
        try:
            if len(argv) > 1:
                raise app.UsageError(f"unexpected argument {argv[1]!r}: a flag is --NAME=VALUE")
            for name in flags.FLAGS:  # such as --workdir=$RUN where there is no RUN
                flag = flags.FLAGS[name]
                if flag.present and not name.startswith("config") and flag.value == "":
                    raise app.UsageError(f"--{name} is empty: give it a value, or leave it out")
                if isinstance(flag.value, float) and math.isnan(flag.value):
                    raise app.UsageError(f"--{name} takes a number, not nan")
            runtime.use_eigen()
            runtime.keep_memory()
            runtime.keep_programs()
            main(argv)
        except app.UsageError as error:
            fail(error)
        except OSError as error:
            fail(error, code=1)

    for flag in flags.FLAGS.flags_by_module_dict()[__name__]:  # --help is to tell of them, too
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded, flags_parser=parse_config if takes_config else parse)


def parse(argv: list[str]) -> list[str]:
    """absl's flag parser."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(error)


def parse_config(argv: list[str]) -> list[str]:
    """absl's flag parser, with `--config=FILE` loaded and its fields as flags."""
    try:
        path, rest = _split(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
    except (flags.Error, app.UsageError) as error:
        fail(error)
    if path is not None:
        try:
            config = load_config(path)
            _check_fields(config, rest)
        except app.UsageError as error:
            fail(error)
        config_flags.DEFINE_config_dict("config", config, sys_argv=rest)
    elif not any(re.match("--?help", argument) for argument in rest):
        fail("--config=FILE is missing: try --config=configs/digits.py")
    else:
        words = "FILE or FILE:RECIPE, see configs/; --config.FIELD=VALUE changes a field of it."
        flags.DEFINE_string("config", None, words, module_name=sys.argv[0])
    try:
        return flags.FLAGS(rest)
    except flags.Error as error:
        fail(_explain(error, config) if path else error)


def load_config(path: str) -> ConfigDict:
    """The config of FILE or FILE:RECIPE.

    Raises:
      app.UsageError: there is no such file, it does not define `get_config`, or running it fails.
    """
    name, _, recipe = path.partition(":")
    if not Path(name).is_file():
        raise app.UsageError(f"config file {name} does not exist")
    module_spec = importlib.util.spec_from_file_location("config_file", name)
    if module_spec is None or module_spec.loader is None:
        raise app.UsageError(f"config file {name} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise app.UsageError(f"config file {name} does not define get_config()")
        config = module.get_config(recipe) if recipe else module.get_config()
    except app.UsageError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = next(
            (frame for frame in reversed(frames) if "ml_collections" not in frame.filename),
            frames[-1],
        )
        # ml_collections shows the whole config between the mistake and the nearest field.
        message = re.sub(
            r"^'(.*)Other fields present:.*}\"(?:\\n)?(.*)'$", r"\1\2", str(error), flags=re.S
        )
        raise app.UsageError(
            f"config file {path}: {type(error).__name__}: {message} "
            f"({Path(where.filename).name}, line {where.lineno})"
        ) from error
    if not isinstance(config, ConfigDict):
        raise app.UsageError(f"config file {name}: get_config() returns no ConfigDict")
    ours, usual = field_types(config), field_types(default.get_config())
    for field in sorted(set(ours) ^ set(usual)):
        fault = "is missing" if field in usual else f"does not exist: {_nearest(field, usual)}"
        raise app.UsageError(f"config file {name}: the field {field} {fault}")
    for field, kind in usual.items():
        if ours[field] != kind:
            value = operator.attrgetter(field)(config)
            raise app.UsageError(
                f"config file {name}: {field} takes {kind.__name__}, not {value!r}"
            )
    return config.lock()


def with_overrides(config: ConfigDict, words: list[str]) -> ConfigDict:
    """The config changed by words such as --config.loss=hinge, as on a command line.

    Raises:
      app.UsageError: a field does not exist, or takes no such value.
    """
    _check_fields(config, words)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
    try:
        values(["", *words])
    except flags.Error as error:
        raise app.UsageError(_explain(error, config)) from error
    return config


def restore_config(values: dict[str, Any]) -> ConfigDict:
    """The config of a run; fields that its snapshot lacks are as by default.

    Args:
      values: what config.json holds, by dotted names.
    Raises:
      app.UsageError: a field does not exist, or has a value of another type.
    """
    config = default.get_config()
    known = field_types(config)
    for field, value in values.items():
        if field not in known:
            raise app.UsageError(f"config.json: the field {field} does not exist")
        if known[field] is tuple and value is not None:  # a list in JSON
            value = tuple(value)
        try:
            config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            kind = known[field].__name__
            raise app.UsageError(f"config.json: {field} takes {kind}, not {value!r}") from error
    return config


def overrides() -> list[str]:
    """The fields that the command line has set, as dotted names."""
    return list(config_flags.get_override_values(flags.FLAGS["config"]))


def load_page() -> ConfigDict:
    """The config as its file has it, without what the command line has set."""
    return load_config(_path())


def config_name() -> str:
    """The name of the config file, without folder and ending."""
    return Path(_path()).name.partition(":")[0].removesuffix(".py")


def _path() -> str:
    """The value of --config."""
    return _split(flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False))[0] or ""


def fail(message: object, code: int = 2) -> NoReturn:
    """Says what is wrong in one line, and exits with the code."""
    line = " ".join(str(message).split())
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(code)


def _not_of_orbax(record: Any) -> bool:
    """Whether a log record is of another: what Orbax reports, pages of it, it raises, too."""
    return "orbax" not in record.pathname


def _end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Says why a thread has ended; not of a disk that is full: who writes there, too, says it."""
    full = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    if getattr(end.exc_value, "errno", None) not in full:
        threading.__excepthook__(end)


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of --config, and the other arguments.

    Raises:
      app.UsageError: there are two.
    """
    path: str | None = None
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        before = path
        if argument in ("--config", "-config"):
            path = next(arguments, None)
        elif argument.startswith(("--config=", "-config=")):
            path = argument.partition("=")[2]
        else:
            rest.append(argument)
            continue
        if before is not None:
            raise app.UsageError(f"--config is given twice: {before} and {path}")
    return path, rest


def _check_fields(config: ConfigDict, argv: list[str]) -> None:
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if not match:
            continue
        field, known = match[1], list(field_types(config))
        if field in known:
            continue
        below = [name for name in known if name.startswith(f"{field}.")]
        if below:
            raise app.UsageError(f"--config.{field} is a group: set one of {', '.join(below)}")
        hint = _nearest(field, known)
        raise app.UsageError(f"--config.{field}: the config has no such field: {hint}")


def _nearest(field: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(field, known, 1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def field_types(config: ConfigDict, prefix: str = "") -> dict[str, type]:
    """The type of every field, by dotted name."""
    fields: dict[str, type] = {}
    for name in config:
        if isinstance(config[name], ConfigDict):
            fields |= field_types(config[name], f"{prefix}{name}.")
        else:
            fields[prefix + name] = config.get_type(name)
    return fields


def _explain(error: flags.Error, config: ConfigDict) -> str:
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match:
        return str(error)
    return f"--config.{match[1]} takes {field_types(config)[match[1]].__name__}, not {match[2]!r}"
