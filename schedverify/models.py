"""Models and their cuts, decoders and clusters: what ``schedverify.models`` offers beside schedules.

Files are read with :func:`load_model`, :func:`load_decoder` and :func:`load_cluster`; :func:`cut` makes stages of a
model, :func:`advise` chooses the degrees of parallelism for a decoder, and :func:`partition` does what the command of
that name does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.costmodel.decoder import Decoder, Device, Training, decoder_model
from schedverify.costmodel.parallelism import Advice, Choices, Cluster, Priced, advise
from schedverify.formats.framework_cuts import for_framework
from schedverify.formats.models.cluster_files import cluster_from, load_cluster, load_decoder
from schedverify.formats.models.model_files import load_model, model_from, save_model
from schedverify.formats.text_files import PathLike, naming, source_name
from schedverify.partitioner.stage_problem import Cut, cut
from schedverify.partitioner.sums import check_sums, check_work
from schedverify.planner.joint import Joint, partition_jointly

__all__ = [
    "Advice", "Choices", "Cluster", "Cut", "Decoder", "Device", "Devices", "Joint", "Layer", "Model",
    "PartitionConstraints", "Priced", "Training", "advise", "cluster_from", "cut", "decoder_model", "for_framework",
    "load_cluster", "load_decoder", "load_model", "model_from", "partition", "save_model",
]  # fmt: skip


def partition(  # noqa: PLR0913 - each is an option of the command line
    model: Model | PathLike,
    *,
    ranks: int | None = None,
    virtual: int | None = None,
    microbatches: int | None = None,
    family: str | None = None,
    device: str | None = None,
    sequence: int | None = None,
    microbatch_size: int | None = None,
    tensor_parallel: int | None = None,
    recompute: str | None = None,
    cluster: PathLike | None = None,
    top: int = 10,
    joint: bool = False,
    time_limit: float = 20,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
) -> Cut | Joint | Advice:
    """Cut a model into stages, as the command ``partition`` does.

    Parameters
    ----------
    model
        A model, its file, or the name of a decoder that comes along.
    ranks, virtual
        Devices of the pipeline, needed without a cluster, and stages on each.
    microbatches
        Micro-batches of a step; four times the ranks by default.
    family
        The schedule that counts for memory, as in :func:`cut`.
    device, sequence, microbatch_size, tensor_parallel, recompute
        Of a decoder in a file or by its name: its device, and what its ``[training]`` says.
    cluster
        A cluster file: choose the degrees for a decoder; what is given is fixed.
    top
        How many choices for a cluster are returned.
    joint
        Whether partition, placement and schedule are searched for together, as by :func:`partition_jointly`.
    time_limit, seed, workers, progress, stop
        Of the search; seed and progress count with ``joint``.

    Returns
    -------
    Cut, Joint or Advice
        The cut; with ``joint`` the best plan over all partitions, with ``cluster`` the ranked set-ups.

    Raises
    ------
    InputError
        If arguments are missing or do not go together, or nothing fits.
    """
    check_types("partition", model=(model, Model, os.PathLike, str))
    training = {"sequence": sequence, "microbatch_size": microbatch_size, "tensor_parallel": tensor_parallel,
                "recompute": recompute}  # fmt: skip
    if cluster is not None:
        if isinstance(model, Model):
            raise InputError(Fault("model", "expected a decoder beside a cluster", "give its file or its name"))
        options = {**training, "device": device, "pipeline_parallel": ranks, "virtual": virtual}
        return _advice(model, cluster, options, top, stop)
    changes = decoder_changes(device, training)
    if ranks is None:
        raise InputError(Fault("ranks", "missing", "how many devices the pipeline has, or a cluster"))
    if isinstance(model, Model) and changes:
        raise InputError(Fault(next(iter(changes)), "is said of a decoder in a file", "give the model's file or name"))
    stages, count = ranks * (virtual or 1), microbatches or 4 * ranks
    given = model if isinstance(model, Model) else load_to_cut(model, changes, stages, count)
    shape: dict[str, Any] = {"ranks": ranks, "virtual": virtual or 1, "microbatches": count,
                             "family": family, "time_limit": time_limit}  # fmt: skip
    try:
        if joint:
            return partition_jointly(given, **shape, seed=seed, workers=workers, progress=progress, stop=stop)
        return cut(given, **shape, workers=workers or 2, stop=stop)
    except InputError as error:
        raise error if isinstance(model, Model) else error.about(source_name(model), (*shape, "workers")) from None


def load_to_cut(path: PathLike, changes: Mapping[str, Mapping[str, Any]], stages: int, microbatches: int) -> Model:
    """Return the model in a file; it is named where so many stages and micro-batches are too much."""
    model = load_model(path, changes)
    with naming(path):
        check_sums(model, stages, microbatches)
        check_work(model, stages, microbatches)
    return model


def decoder_changes(device: str | None, training: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return what is said of a decoder's training and device, by table of a model file; None says nothing."""
    given = {name: value for name, value in training.items() if value is not None}
    return ({"training": given} if given else {}) | ({"device": {"like": device}} if device else {})


def _advice(
    model: PathLike, cluster: PathLike, options: Mapping[str, Any], top: int, stop: threading.Event | None
) -> Advice:
    """Return the advice for a decoder on the cluster of a file.

    Parameters
    ----------
    options
        ``device``, ``sequence``, and the degrees that are fixed; None for what is left open.
    """
    given = {name: value for name, value in options.items() if value is not None}
    device, sequence = given.pop("device", None), given.pop("sequence", None)
    decoder = load_decoder(model, {"training": {"sequence": sequence}} if sequence else {})
    found = load_cluster(cluster, device)
    fixed = decoder.fixed | {name: (value,) for name, value in given.items()}
    found = replace(found, choices=replace(found.choices, **fixed))
    try:
        return advise(decoder.shape, decoder.training, found, top=top, name=decoder.name, stop=stop)
    except InputError as error:  # of what the cluster leaves to choose, or of the decoder's own numbers
        raise error.within(source_name(cluster if error.faults[0].key == "choices" else model)) from None
