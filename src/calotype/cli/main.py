"""The command line: `calotype COMMAND …`.  Each command loads its room when it is called."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

from calotype import __version__
from calotype.cli.convert import convert
from calotype.cli.data import edges, fashion_mnist, icons, mnist, photos, shards
from calotype.cli.decode import decode
from calotype.cli.ema import ema
from calotype.cli.evaluate import audit, compare, evaluate, report
from calotype.cli.forecasts import plan
from calotype.cli.generate import generate
from calotype.cli.inspect import inspect
from calotype.cli.models import models
from calotype.cli.replay import replay
from calotype.cli.restore import deblur, denoise, inpaint, upscale
from calotype.cli.serve import serve
from calotype.cli.train import train_app
from calotype.cli.tune import controlnet, dreambooth, finetune, inversion, lora
from calotype.cli.vary import vary
from calotype.errors import CalotypeError

app = typer.Typer(
    help="Stable Diffusion as one whole: train, measure, load and make pictures.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
data_app = typer.Typer(help="Build data sets.", no_args_is_help=True)
data_app.command("icons")(icons)
data_app.command("photos")(photos)
data_app.command("mnist")(mnist)
data_app.command("fashion-mnist")(fashion_mnist)
data_app.command("shards")(shards)
data_app.command("edges")(edges)
app.command("generate")(generate)
app.command("replay")(replay)
app.command("decode")(decode)
app.command("vary")(vary)
app.command("models")(models)
app.command("convert")(convert)
app.command("inspect")(inspect)
app.command("evaluate")(evaluate)
app.command("compare")(compare)
app.command("ema")(ema)
app.command("audit")(audit)
app.command("report")(report)
for _task in (denoise, inpaint, upscale, deblur):
    app.command(_task.__name__)(_task)
app.command("serve")(serve)
app.command("plan", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(plan)
for _tuning in (finetune, lora, dreambooth, inversion, controlnet):
    train_app.command(_tuning.__name__)(_tuning)
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"calotype {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or what the error says (2 for wrong input, 130 for Ctrl-C)."""
    atexit.register(gc.freeze)  # after torch, a last search for cycles would take half a second
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.  Errors go to stderr, one sentence each."""
    try:
        result = app(arguments, prog_name="calotype", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CalotypeError as error:
        print(f"calotype: {error}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        message = error.format_message()
        if "\n" in message:  # a command without arguments: its help
            print(message, file=sys.stderr)
        else:
            print(f"calotype: {message.rstrip('.')}; --help lists what there is.", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left; nothing more can be said
        return 1
