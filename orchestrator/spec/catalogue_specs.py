"""What the codes E1xx and W1xx mean: specs and platform files."""

from __future__ import annotations

__all__ = ["SPEC_CODES"]

SPEC_CODES = """
E100 the file cannot be read
    The path leads to nothing, to a folder, to something that is no regular file (a pipe, a device), or the file may
    not be read. Paths on the command line are relative to where the command runs.
E101 unknown key
    A key that means nothing is an error, since a misspelt key would otherwise be ignored without a word. The
    message names the key that was probably meant, or all that may stand there. `mlo schema` lets an editor complete
    keys.
E102 missing key
    A key without a default is not there. The line to add stands beside the caret, with an example as its value.
E103 not one of the allowed values
    The key takes one of a few words. The message lists them; capital letters count.
E104 wrong kind of value
    A number stands where text is wanted, one value where a list is, or nothing at all. `yes` and `no` are text:
    write `true` or `false`. `3.10` is a number: text that looks like a number goes in quotes.
E105 malformed value
    The value has the right type and the wrong form: a duration without a unit, a size with an unknown one, a name
    with capital letters. Names are strict because they become parts of file names, images, URLs and commands.
E106 value out of range
    The number is smaller or larger than the key allows.
E107 too few or too many entries
    A list or mapping is empty where at least one entry is wanted, or has more entries than allowed.
E108 duplicate key
    YAML lets the last of two equal keys win silently, so the first one would be lost. Keep one of them.
E109 not YAML
    The text cannot be parsed: a quote or bracket that is not closed, a tab in the indentation, lines that are not
    indented alike. The place is where the parser noticed, which can be a line after the mistake; a note says where
    the bracket or quote began.
E110 not UTF-8 text
    The file is binary, has another encoding than UTF-8, or holds control characters. A byte order mark is fine.
E111 too large
    A spec may have 1 MiB, 64 levels of nesting and 20,000 values, with every alias counted as often as it is used.
    These limits keep a wrong or hostile file from taking the machine's memory.
E112 not one spec
    The file is empty, holds a list or a single value, several documents, or is another kind of file than was asked
    for, such as a platform file where a spec is wanted.
E113 a part of YAML that specs do not use
    Tags (`!!python/...`), aliases that contain themselves, keys that are lists, and values that YAML readers
    disagree about (`True`, `.inf`, integers beyond 64 bits) are refused. Write the value plainly, or in quotes.
E120 dimension without a range
    A shape names a dimension that `model.dims` does not have. The range is what conversion, verification and
    benchmark cover: `dims: {batch: {min: 1, max: 64}}`.
E121 empty range
    `min` is above `max`. For replicas, `max` is 1 where it is not given.
E122 given twice
    Names of inputs and of outputs are unique, and what is tried or measured is listed once. An input and an output
    may have the same name.
E123 batch size outside the range
    `benchmark.batch_sizes` lies outside the range of the batch dimension, which is the named first dimension that
    all inputs share. A model without one is measured at batch size 1.
E124 file not found
    A file that the spec names does not exist. Paths are relative to the spec's folder, not to where the command
    runs.
E125 remote file
    Weights and samples are read from this machine only: a path, or `file:///...`. Download the file first.
E126 batching does not fit the model
    `serving.batching.max_size` is above the largest batch that `model.dims` allows, or the model has no batch
    dimension at all.
E127 a dimension of the model without a range
    The model leaves a dimension open, or does not say how many dimensions an input has. Conversion, verification and
    benchmark cover the whole range of every dimension, so `model.dims` says from where to where it goes.
E128 a tensor that mlo does not serve
    The model takes or returns a type that has no counterpart in the serving protocols. Change the model, or declare only
    the other outputs.
E129 spec and model differ
    `model.inputs`, `model.outputs` or `model.dims` declare what the model does not have, or have it otherwise. Leave
    them out, and they are read from the model; `tensor:` says the model's own name where `name:` is to be another.
E130 not allowed by the platform
    The platform file restricts what may be chosen: registries, base images, backends, source kinds, formats, targets.
    The note names the rule's file and line; who owns that file can change it.
E131 above the platform's limit
    The platform file limits CPUs, memory, replicas and accelerators of one deployment. The note names the limit's file
    and line.
E132 required by the platform
    The platform file requires a label, a gate or a base image that the spec does not give. Add it to the spec. A base
    image is asked for wherever an image can come out of it.
E133 an accelerator is needed
    `hardware.count` says how many accelerators one replica has, and `serving.cuda_graphs` how they are used. Both mean
    something with `hardware: {accelerator: cuda}` alone.
E134 unknown environment
    `--environment` names an environment that the spec's `environments` does not have.
E135 fixed key
    An environment, or a platform's defaults, sets what only the spec itself may say: the model, the name, the kind.
    The model is the same in every environment, so that what was proven is what is deployed.
E140 no such model
    The path that `mlo init` was given leads to nothing, or what is there may not be read.
E141 no model
    What the path leads to is nothing that mlo reads: the message says what it looks like. `--kind` says what it is where
    it is not recognized. A folder is searched for one model, not below its folders.
E142 a Git LFS pointer
    The repository was cloned without its large files: a small text stands in place of the model. `git lfs pull` fetches
    it.
E143 a damaged model file
    The file is empty or cut off, as an interrupted download leaves it. Copy, download or save it again.
E144 several models
    The folder holds more than one model. Name the one that is meant.
E145 a file would be overwritten
    `mlo init` overwrites a spec, and random samples of its own, with `--force` only. Samples that it did not make
    are never overwritten.
E146 inside the model's folder
    The spec, or the store, would lie inside the folder that is the model. Every file in it counts as a part of the
    model, so each change of the spec would make it another one. Run the command in the folder around it.
E136 the spec lies inside the model
    A SavedModel or a folder of Transformers is all that is below it. A spec inside would be a part of the model, and so
    would `.mlo`, which changes while mlo works.
E199 no such code
    `mlo explain` was asked for a code that no message has.
W101 unused dimension
    `model.dims` gives a range for a dimension that no shape names. Often the shape has a number, or another name,
    where this was meant.
W102 int8 without samples
    int8 needs typical inputs to choose its scales. Without `model.samples` they are random, and so is the proof
    that the result is still right.
W103 text that looks like a truth value
    `yes`, `no`, `on` and `off` are text in YAML 1.2, and in Python every text that is not empty is true.
W104 a key without effect
    `optimize: {formats: [tflite]}` into a folder makes models for devices alone. There is no server to be set up and no
    image to be built, so what the spec says about them changes nothing.
"""
