"""What the codes E1xx and W1xx mean: specs and platform files."""

from __future__ import annotations

__all__ = ["SPEC_CODES"]

SPEC_CODES = """
E100 the file cannot be read
    The path does not exist, is a folder or another kind of non-regular file (a pipe, a device), or you lack permission
    to read it. Paths on the command line are relative to the current directory.
E101 unknown key
    Unknown keys are errors, because a misspelled key would otherwise be ignored silently. The message suggests the key
    that was probably meant, or lists the keys allowed here. `mlo schema` prints a JSON Schema with which an editor can
    complete keys.
E102 missing key
    A required key is missing. The label beside the caret shows the line to add, with an example value.
E103 not an allowed value
    The key accepts a fixed set of words, which the message lists. They are case-sensitive.
E104 wrong type
    The value has the wrong type: a number instead of text, a single value instead of a list, or no value at all. `yes`
    and `no` are text: write `true` or `false`. `3.10` is a number: put quotes around text that looks like a number.
E105 malformed value
    The value has the right type but the wrong form: a duration without a unit, a size with an unknown unit, a name with
    capital letters. Names are strict because they become parts of file names, images, URLs and commands.
E106 value out of range
    The number is below the minimum or above the maximum of the key.
E107 too few or too many entries
    A list or mapping is empty but needs at least one entry, or has more entries than allowed.
E108 duplicate key
    YAML silently keeps the last of two equal keys, so the first one would be lost. Keep one of them.
E109 invalid YAML
    The text cannot be parsed: an unclosed quote or bracket, a tab in the indentation, or inconsistent indentation. The
    position is where the parser noticed the error, which can be a line after the mistake; a note says where the bracket
    or quote started.
E110 not UTF-8 text
    The file is binary, uses an encoding other than UTF-8, or contains control characters. A byte order mark is allowed.
E111 too large
    A spec is limited to 1 MiB, 64 levels of nesting and 20,000 values (an alias counts each time it is used). The limits
    keep a wrong or hostile file from using up the machine's memory.
E112 not a single spec
    The file is empty, contains a list, a single value or several documents, or is a different kind of file, such as a
    platform file where a spec is expected.
E113 unsupported YAML feature
    Tags (`!!python/...`), aliases that contain themselves, keys that are lists, and values that YAML parsers interpret
    differently (`True`, `.inf`, integers beyond 64 bits) are refused. Write the value plainly, or put it in quotes.
E120 dimension without a range
    A shape uses a dimension that `model.dims` does not define. Conversion, verification and benchmarks cover the range
    given there: `dims: {batch: {min: 1, max: 64}}`.
E121 empty range
    `min` is greater than `max`, or no multiple of `multiple_of` lies between them. For replicas, `max` defaults to 1.
E122 duplicate entry
    Input names must be unique, and so must output names; each precision, format and batch size may be listed once. An
    input and an output may have the same name.
E123 batch size out of range
    `benchmark.batch_sizes` contains a size that the batch dimension cannot have, outside its range or not a multiple of
    its `multiple_of`. The batch dimension is the named first dimension shared by all inputs, unless `model.batch` says
    otherwise. Without one, requests are measured one by one, at batch size 1.
E124 file not found
    A file named in the spec does not exist. Paths are relative to the spec's folder, not to the current directory.
E125 remote file
    Weights and samples are only read from this machine: a path, or `file:///...`. Download the file first.
E126 batching does not fit the model
    `serving.batching.max_size` is larger than the largest batch that `model.dims` allows, or the model has no batch
    dimension; or `model.batch` names a dimension that no input has.
E127 dimension of the model without a range
    The model leaves a dimension open, or does not specify the rank of an input. Conversion, verification and benchmarks
    cover the whole range of every dimension, so `model.dims` must give its minimum and maximum.
E128 unsupported tensor type
    The model has an input or output whose type the serving protocols cannot represent. Change the model, or declare only
    the other outputs.
E129 spec and model differ
    `model.inputs`, `model.outputs` or `model.dims` declare something that the model does not have or defines differently.
    Remove them from the spec to have them read from the model. To rename a tensor, give the model's own name in `tensor:`
    and the new one in `name:`.
E130 not allowed by the platform
    The platform file restricts the choice of registries, base images, backends, source kinds, formats or targets. The
    note gives the file and line of the rule; ask the owner of that file to change it.
E131 above the platform's limit
    The platform file limits the CPUs, memory, replicas and accelerators of a deployment. The note gives the file and line
    of the limit.
E132 required by the platform
    The platform file requires a label, a gate or a base image that the spec does not set. Add it to the spec. A base
    image is required whenever an image may be built from the spec.
E133 no accelerator
    `hardware.count` is the number of accelerators per replica, and `serving.cuda_graphs` controls how they are used. Both
    require `hardware: {accelerator: cuda}`.
E134 unknown environment
    The environment given with `--environment` is not defined in the spec's `environments` section.
E135 key that cannot be overridden
    An environment, or a platform's defaults, sets a key that only the spec may set: the model, the name or the kind. The
    model is the same in every environment, so that what was verified is what is deployed.
E136 the spec is inside the model's folder
    All files in the folder of a SavedModel or Transformers model belong to the model. A spec inside would become part
    of the model, and so would `.mlo`, which changes while mlo runs.
E137 an input cannot hold these values
    `range` and `values` say what an input may hold, so they must suit its `dtype`: whole numbers for integers, within the
    type's own range; texts for strings, `true` and `false` for booleans. Give one of the two. `range: [0, 255]` is the
    smallest and the largest number, both included; `enforce: true` needs one of the two to check requests against.
E138 two keys exclude each other
    Each of the two keys says where something comes from, and there is one such place. Remove one of them.
E140 path not found
    The path given to `mlo init` does not exist or cannot be read.
E141 not a model
    The path does not lead to a model that mlo recognizes; the message says what the file looks like. Use `--kind` if it
    was not recognized. In a folder, mlo looks for one model, and not in its subfolders.
E142 Git LFS pointer
    The repository was cloned without its large files, so a small text file is in the model's place. Run `git lfs pull`.
E143 damaged model file
    The file is empty or truncated, for instance after an interrupted download. Copy, download or save it again.
E144 several models
    The folder contains more than one model. Give the path of one of them.
E145 a file would be overwritten
    `mlo init` replaces an existing spec, or random samples that it generated, only with `--force`. It never overwrites
    samples that it did not generate.
E146 inside the model's folder
    The spec or the store would be created inside the model's folder. All files there belong to the model, so every
    change to the spec would change the model. Keep both elsewhere, such as in the parent folder.
E199 unknown code
    There is no message with the code given to `mlo explain`.
W101 unused dimension
    `model.dims` defines a dimension that no shape uses. Often the shape contains a number or a different name instead.
W102 int8 without samples
    int8 quantization needs representative inputs to choose its scales. Without `model.samples` it is calibrated and
    verified on random inputs.
W103 text that looks like a boolean
    `yes`, `no`, `on` and `off` are text in YAML 1.2, and in Python any non-empty text is true.
W104 key without effect
    With `optimize: {formats: [tflite]}` and a folder as target, only models for devices are produced. No server is set up
    and no image is built, so settings for them have no effect.
W105 requests that are kept out
    `deploy.ingress`, or a Service of type `LoadBalancer` or `NodePort`, brings requests from outside the namespace, and the
    NetworkPolicy lets in only those of the same one, unless `deploy.ingress.from_namespace` or `deploy.service.requests_from` says more.
    A cluster whose network does not know such policies lets all in.
W106 a share that pods cannot give
    The first of `deploy: strategy: canary: steps:` is far less than one pod takes beside those of `serving.replicas.min`. The step is held
    with the share of one pod, and its line says so.
"""
