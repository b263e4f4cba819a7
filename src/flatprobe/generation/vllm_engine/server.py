"""The vLLM process of one checkpoint: when it starts, with what, whether it can serve, and what is left after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatprobe.errors import FlatprobeError, UserError
from flatprobe.generation.vllm_engine.link import Link, ProcessDied
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.fit import require_context_length
from flatprobe.models.reference import fingerprint_folder
from flatprobe.study.recipe_schema import Precision

SCRIPT = Path(__file__).with_name("process.py")
INSTALL = (
    'pip install "flatprobe[vllm]", or name an interpreter that has it in the machine file (vllm: python: …)'
)
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the largest ranks that vLLM can be started for
# Tokens beyond what a call needs, so that scoring a marker behind the longest answer needs no restart.
SLACK = 64
# Tokens that it is started for at least, or the short calls of a stage's checks would start a process that its sampling
# must replace. Keys and values are taken by pages, so the room costs nothing.
FLOOR = 4096
NOISE = 64  # MiB that may come and go on a device without anyone's doing
ADAPTERS_KEPT = 8  # in the memory of the host, so that switching between them reads no file


class EngineFailed(FlatprobeError):
    """The engine's process ended before the work did, again after a restart."""

    def __init__(self, engine: str, cause: str, tail: str) -> None:
        self.engine, self.cause, self.tail = engine, cause, tail
        super().__init__(engine, cause, tail)

    def __str__(self) -> str:
        return f"the {self.engine} process failed twice: {self.cause}\nthe last lines it wrote:\n{self.tail}"


@dataclass(frozen=True)
class AdapterSize:
    """What the engine must have room for to serve an adapter."""

    rank: int
    """The largest rank of its updates."""
    modules: frozenset[str]
    """Names of the updated linear modules: q_proj, down_proj."""


NO_ADAPTER = AdapterSize(0, frozenset())


@dataclass(frozen=True)
class Needs:
    """What a call asks of a running engine."""

    length: int
    """Tokens of the longest prompt with its answer."""
    adapter: AdapterSize = NO_ADAPTER


@dataclass(frozen=True)
class Freed:
    """What was seen after the process had ended."""

    processes_gone: bool
    """Whether nothing of its process group is left."""
    used_before: tuple[int, ...] | None
    """MiB in use on each NVIDIA device before the process was started; None where there is none."""
    used_after: tuple[int, ...] | None
    """The same, after it had ended."""

    @property
    def left_in_use(self) -> int:
        """MiB by which some device holds more than before, by whomever; 0 where there is none."""
        pairs = zip(self.used_before or (), self.used_after or (), strict=False)
        return max((max(0, after - before) for before, after in pairs), default=0)


class VllmServer:
    """One checkpoint, one process, started when it is first needed and again when it must be larger."""

    def __init__(self, checkpoint: Path, precision: Precision, options: VllmMachine) -> None:
        self.checkpoint, self.precision, self.options = checkpoint.resolve(), precision, options
        self.context = require_context_length(self.checkpoint)
        self.starts = 0
        self.started: dict[str, Any] = {}
        self.freed: Freed | None = None
        self._link: Link | None = None
        self._size = Needs(0)
        self._adapters: dict[Path, dict[str, Any]] = {}
        self._used_before: tuple[int, ...] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return None if self._link is None else self._link.pid

    def suffices(self, needs: Needs) -> bool:
        """Whether the running process can serve a call as it is."""
        running = self._link is not None and self._link.alive
        wanted, has = needs.adapter, self._size.adapter
        fits = needs.length <= self._size.length and wanted.rank <= has.rank and wanted.modules <= has.modules
        return running and fits

    def link(self, needs: Needs) -> Link:
        """The running process, started or replaced by a larger one where needed.

        Raises:
            UserError: vLLM is not there, or cannot be started this way.
            ProcessDied: it died while it started.
        """
        if self._link is not None and self.suffices(needs):
            return self._link
        self.close()
        grown = self._grown(needs)
        self._used_before = used_memory()
        self._link = self._start()
        self._link.send(command="start", arguments=self._arguments(grown))
        reply = self.reply(self._link, starting=True)
        self._size, self.started = (
            grown,
            {name: reply[name] for name in reply if name not in ("reply", "pid")},
        )
        self.starts += 1
        return self._link

    def _grown(self, needs: Needs) -> Needs:
        """What to start for: room for this call and for those that were served before."""
        length = max(needs.length + SLACK, self.options.max_model_len or FLOOR, self._size.length)
        has = self._size.adapter
        rank = max(_legal_rank(needs.adapter.rank), has.rank)
        return Needs(min(self.context, length), AdapterSize(rank, has.modules | needs.adapter.modules))

    def reply(self, link: Link, *, starting: bool = False) -> dict[str, Any]:
        """The next reply.

        Raises:
            UserError: it says that vLLM is not there, or, `starting`, that it cannot be started this way.
            ProcessDied: the process died, or is about to: it reported an error.
        """
        reply = link.receive()
        if reply["reply"] != "failed":
            return reply
        self.abandon()
        tail = link.tail  # only now is all of its log sure to have arrived
        if reply["missing"]:
            raise UserError.one(
                "vllm_engine.TODO",
                f"engine vllm: {self._python()}",
                f"no vLLM there ({reply['message']})",
                INSTALL,
            )
        if starting:
            raise UserError.one(
                "vllm_engine.TODO",
                f"engine vllm: {self.checkpoint.name}",
                f"vLLM cannot be started: {reply['message']}",
                "see the stage's log; where memory is short, lower `gpu_memory` or end what else uses the device",
            )
        raise ProcessDied(reply["message"], tail)

    def adapter(self, folder: Path | None) -> dict[str, Any] | None:
        """How the process is told of an adapter: its name is made of its content.

        vLLM keeps what it computed for a prompt under the adapter's name, and loads an adapter once per id: two
        adapters that shared either would be taken for each other. Ids hold 32 bits, too few for a hash, so they count.
        """
        if folder is None:
            return None
        known = self._adapters.setdefault(folder, {"path": str(folder.resolve())})
        known.setdefault("name", f"adapter-{fingerprint_folder(folder)[:32]}")
        names = list(dict.fromkeys(other["name"] for other in self._adapters.values()))
        return {**known, "id": names.index(known["name"]) + 1}

    def close(self) -> Freed | None:
        """End the process, if there is one, and look at what is left. Returns what was seen."""
        return self._end(graceful=True)

    def abandon(self) -> None:
        """End the process at once, in the middle of whatever it does."""
        self._end(graceful=False)

    def _end(self, *, graceful: bool) -> Freed | None:
        link, self._link = self._link, None
        if link is None:
            return self.freed
        if graceful:
            link.end()
        else:
            link.kill()
        self.freed = Freed(link.group_is_gone(), self._used_before, used_memory())
        if not self.freed.processes_gone:
            sys.stderr.write(f"processes of the vLLM engine {link.pid} are still there\n")
        if self.freed.left_in_use > NOISE:
            sys.stderr.write(
                f"a device has {self.freed.left_in_use} MiB more in use than before the vLLM engine was started\n"
            )
        return self.freed

    def _python(self) -> str:
        return self.options.python or sys.executable

    def _start(self) -> Link:
        environment = dict(os.environ)
        if self.options.python is not None:
            environment.pop("PYTHONPATH", None)  # it names packages of another interpreter
        environment |= {
            "PYTHONSAFEPATH": "1",  # or the script's folder would be searched for modules
            "VLLM_LOGGING_STREAM": "ext://sys.stderr",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the checkpoint is here
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, and scheduling that does not depend on timing
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_BATCH_INVARIANT": str(int(self.options.batch_invariant)),
        }
        python = self._python()
        try:
            return Link([python, str(SCRIPT)], environment)
        except OSError as error:
            raise UserError.one(
                "vllm_engine.TODO",
                "engine vllm",
                f"{python} cannot be run: {error.strerror}",
                "mend `python` in the machine file",
            ) from error

    def _arguments(self, size: Needs) -> dict[str, Any]:
        """Arguments of vLLM's engine: nothing that changes a distribution is left to its defaults."""
        arguments = {
            "model": str(self.checkpoint), "dtype": self.precision, "max_model_len": size.length,
            "gpu_memory_utilization": self.options.gpu_memory, "enforce_eager": self.options.enforce_eager,
            "tensor_parallel_size": self.options.tensor_parallel_size, "skip_tokenizer_init": True,
            "generation_config": "vllm", "enable_prefix_caching": True, "trust_remote_code": False, "seed": 0,
            "load_format": "safetensors", "disable_log_stats": True,
        }  # fmt: skip
        if size.adapter.rank:
            # Were the output matrix among the modules, scores of given tokens would fail or be wrong: vLLM looks up
            # adapters by request there, and not by token.
            arguments |= {
                "enable_lora": True, "max_lora_rank": size.adapter.rank, "max_loras": 1,
                "max_cpu_loras": ADAPTERS_KEPT, "lora_target_modules": sorted(size.adapter.modules),
            }  # fmt: skip
        return arguments


def _legal_rank(rank: int) -> int:
    """The smallest rank that vLLM can be started for and that holds an adapter of this one; 0 for none.

    Raises:
        UserError: there is none.
    """
    if rank == 0:
        return 0
    if rank > RANKS[-1]:
        raise UserError.one(
            "vllm_engine.TODO",
            "engine vllm",
            f"an adapter of rank {rank}: vLLM takes {RANKS[-1]} at most",
            "use engine: transformers",
        )
    return next(legal for legal in RANKS if legal >= rank)


def used_memory() -> tuple[int, ...] | None:
    """MiB in use on each NVIDIA device as the driver sees it, without opening one here; None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        seen = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:  # a driver in trouble; the engine will say so itself
        return None
    numbers = seen.stdout.split()
    return tuple(map(int, numbers)) if seen.returncode == 0 and all(n.isdigit() for n in numbers) else None
