"""The device and the processes of a run, by accelerate. Never algorithms.

All processes run the same program on the same batch. Each computes its part of the rows; the parts
are gathered before the whole batch is used, so that every process has the same values and the same
weights. Only the main process prints and writes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed

from salsa_cli.devices import rendezvous
from salsa_cli.devices.host import available_memory
from salsa_cli.devices.sharding import Sharding
from salsa_cli.errors import Elsewhere, SalsaError, UsageError

S = TypeVar("S")
T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""Timeout of collective operations. It may be long: the launcher notices when a process dies."""

BUCKET = 2**26
"""Number of gradient values per all-reduce."""

_LOST = ("onnection closed", "onnection reset", "onnection refused", "roken pipe", "NCCL", "gloo")
"""Parts of the error messages that follow the loss of another process."""


@dataclass(frozen=True)
class Runtime:
    """The device of this process, and the processes of the run.

    Attributes:
        sharding: how trained models are sharded over the processes; None if they are replicated.
    """

    accelerator: Accelerator
    sharding: Sharding | None = None

    @property
    def device(self) -> torch.device:
        """The device of models and batches."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def processes(self) -> int:
        """Number of processes of the run."""
        return int(self.accelerator.num_processes)

    @property
    def nearby(self) -> int:
        """Number of processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", str(self.processes)))

    @property
    def rank(self) -> int:
        """Rank of this process; 0 is the main process."""
        return int(self.accelerator.process_index)

    @property
    def main(self) -> bool:
        """Whether this is the main process, which prints and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Dtype of frozen weights: bfloat16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def memory(self) -> int:
        """Bytes that this process may still allocate on its device."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @property
    def pass_tokens(self) -> int:
        """Most tokens per forward pass; enough to keep the device busy."""
        return 16384 if self.device.type == "cuda" else 2048

    def autocast(self) -> torch.autocast:
        """Forward passes in bfloat16 on a GPU; float32 on a CPU."""
        on_gpu = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on_gpu)

    def part(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of this process: contiguous, and of equal size in all processes up to one row.

        Args:
            rows: `[N]`, the same in every process.
        """
        return self.parts(rows)[self.rank]

    def parts(self, rows: torch.Tensor) -> Sequence[torch.Tensor]:
        """The same for every process."""
        parts: tuple[torch.Tensor, ...] = torch.tensor_split(rows, self.processes)
        return parts

    def whole(self, values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """The values of all `count` rows, gathered from the parts of all processes.

        Args:
            values: `[n, ...]` of this process; the other dimensions are equal in all processes.
            rows: `[n]`, the rows that the values are of; each row is in exactly one part.
        """
        device = self.device
        # Every row is zero in all processes but one, so the sum is exact.
        kind = torch.uint8 if values.dtype == torch.bool else values.dtype
        held = torch.zeros((count, *values.shape[1:]), dtype=kind, device=device)
        held[rows.to(device)] = values.to(device=device, dtype=kind)
        return self.total(held).to(device=values.device, dtype=values.dtype)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of `values` over the processes, the same in all of them."""
        if self.processes > 1:
            self._join()
            distributed.all_reduce(values)
        return values

    def most(self, value: float) -> float:
        """The largest `value` of any process."""
        if self.processes == 1:
            return value
        self._join()
        held = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(held, distributed.ReduceOp.MAX)
        return float(held)

    def from_main(self, find: Callable[[], T]) -> T:
        """What `find` returns in the main process, the only one that calls it.

        Raises:
            Elsewhere: it fails there.
        """
        found: list[T | None] = [None]
        with self.main_first():
            if self.main:
                found = [find()]
        if self.processes > 1:
            distributed.broadcast_object_list(found, src=0, device=self.device)
        return found[0]  # type: ignore[return-value]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block, then the others do.

        Raises:
            Elsewhere: it fails in the main process.
        """
        if self.processes == 1:
            yield
        elif self.main:
            try:
                yield
            except BaseException:
                with suppress(RuntimeError):  # raised if no other process is left
                    self.most(1)
                raise
            self.most(0)
        else:
            if self.most(0):
                raise Elsewhere("the main process failed")
            yield

    @contextmanager
    def held_by_main(
        self, enter: Callable[[], AbstractContextManager[T]], seen: S
    ) -> Iterator[T | S]:
        """Run a block in a context that only the main process enters; the others get `seen`.

        Raises:
            Elsewhere: the main process cannot enter it.
        """
        with ExitStack() as stack:
            with self.main_first():
                found = stack.enter_context(enter()) if self.main else seen
            yield found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise a clear error if the block fails because another process has exited.

        Raises:
            Elsewhere: another process has exited.
        """
        try:
            yield
        except RuntimeError as error:
            if self.processes > 1 and any(word in str(error) for word in _LOST):
                raise Elsewhere("another process of this run has exited") from error
            raise

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Sum every gradient over the processes, in place."""
        if self.processes == 1:
            return
        self._join()
        gradients = [one.grad for one in parameters if one.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            sums = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, summed in zip(bucket, sums, strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _join(self) -> None:
        """Help the other processes gather layers until all have come to a collective operation."""
        if self.sharding is not None:
            self.sharding.frozen.join()


def start_runtime(device: str, *, shard: bool = False, offload: bool = False) -> Runtime:
    """Set up the device (`auto`, `cpu` or `cuda`) and connect to the other processes.

    Args:
        shard: shard trained models over the processes; accelerate's configuration may say so, too.
        offload: keep the shards in CPU memory; accelerate's configuration may say so, too.

    Raises:
        SalsaError: there is no CUDA device, there are more processes than devices, or accelerate
            is configured for something that salsa does not support.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SalsaError("--device cuda: no CUDA device is available here; use --device cpu")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if shard and processes == 1:
        raise UsageError("--shard has no effect with one process; expected --processes 2 or more")
    sharding = _sharding(shard, offload)
    # accelerate would take Apple's MPS, on which nothing of this has been tried.
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(processes)))
    if processes > 1 and not on_cpu and here > torch.cuda.device_count():
        raise SalsaError(
            f"{here} processes on this machine and {torch.cuda.device_count()} CUDA devices; "
            "expected one device per process, or --device cpu"
        )
    if processes > 1:
        rendezvous.connect("gloo" if on_cpu else "nccl", PATIENCE)
    accelerator = Accelerator(cpu=on_cpu)
    if accelerator.num_processes != processes:
        raise SalsaError(
            f"WORLD_SIZE is {processes}, and accelerate finds {accelerator.num_processes} of the "
            "processes; expected --processes, torchrun or accelerate launch, which set WORLD_SIZE, "
            "RANK and LOCAL_RANK"
        )
    return Runtime(accelerator, sharding if processes > 1 else None)


def _sharding(asked: bool, offload: bool) -> Sharding | None:
    """The sharding of the command line, or of accelerate's configuration.

    Raises:
        SalsaError: accelerate is configured in a way that salsa does not support, or weights are to
            be offloaded that are not sharded.
    """
    for engine in ("DEEPSPEED", "MEGATRON_LM"):
        if _is_set(f"ACCELERATE_USE_{engine}"):
            raise SalsaError(
                f"accelerate is configured for {engine.lower()}, which salsa does not support; "
                "FSDP2 shards weights, gradients and optimiser state like ZeRO-3: use --shard, or "
                "fsdp_version: 2 in accelerate's configuration"
            )
    if not _is_set("ACCELERATE_USE_FSDP"):
        if offload and not asked:
            raise UsageError(
                "--offload weights needs --shard: it keeps each process's shard of the weights in "
                "CPU memory. Add --shard and --processes 2 or more, or remove it"
            )
        return Sharding(offload=offload) if asked else None
    unknown = {
        "fsdp_version: 1": os.environ.get("FSDP_VERSION", "1") != "2",
        "fsdp_activation_checkpointing: true": _is_set("FSDP_ACTIVATION_CHECKPOINTING"),
    }
    if found := [setting for setting, holds in unknown.items() if holds]:
        raise SalsaError(
            f"accelerate is configured with {', '.join(found)}; expected fsdp_version: 2 without "
            "activation checkpointing, for which there is --gradient-checkpointing"
        )
    # Every process loads the whole models, and salsa shards them.
    os.environ["ACCELERATE_USE_FSDP"] = os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return Sharding(
        reshard=_is_set("FSDP_RESHARD_AFTER_FORWARD", "true"),
        offload=offload or _is_set("FSDP_OFFLOAD_PARAMS"),
    )


def _is_set(variable: str, default: str = "false") -> bool:
    return os.environ.get(variable, default).lower() in ("1", "true", "yes")


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Lists of consecutive tensors of one dtype, with at most `BUCKET` values each."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(held.numel() for held in bucket) + tensor.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
