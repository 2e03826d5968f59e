"""What the codes E3xx and W3xx mean: the original model, its code, its inputs and outputs, its samples."""

from __future__ import annotations

__all__ = ["MODEL_CODES"]

MODEL_CODES = """
E301 the weights do not match the kind
    `model.source.weights` does not exist, or is a different kind of file than `kind:` says; the message says which. The
    path is relative to the spec's folder.
E302 the model file cannot be loaded
    The file is damaged, truncated, of a different kind than `model.source.kind` says, or was written by a newer PyTorch.
    Copy or save it again.
E303 the model file contains code
    A pickled model can run arbitrary code when it is loaded, so mlo only loads tensors. Save the state dict, preferably as
    safetensors, and name the class that builds the model in `factory`. For a Transformers folder no code is run: neither
    classes named in `auto_map` nor custom modules. A Keras file may contain Lambda layers, custom classes or functions:
    replace them with built-in layers, or export the model to a SavedModel or to ONNX where its code is available.
E304 `weights_key` not found
    `weights_key` is the path, with dots between the keys, from the top level of the checkpoint to the state dict and, if
    needed, on to a common prefix of its names: `state_dict.model` in a PyTorch Lightning checkpoint. The message lists
    the keys that exist.
E305 keys of weights and model differ
    The state dict has keys that the model does not have, or lacks some. Usually the factory builds a different size or
    variant than was trained, or the keys have a prefix such as `model.`; append that prefix to `weights_key`. What wrappers
    put into names, such as `module.` and `_orig_mod.`, needs no change where it tells which name is meant.
E306 shapes of weights and model differ
    A stored tensor has a different shape than the model expects. Pass the sizes that the model was trained with to the
    factory in `kwargs`.
E307 types of weights and model differ
    A stored tensor has a different type than the model expects and cannot be converted without changing its values.
E308 not a state dict of tensors
    The checkpoint has something else where the state dict is expected. Set `weights_key` to its location.
E310 the model's code cannot be imported
    The module named in `factory` does not exist or raises an error when it is imported. mlo looks in the spec's folder
    first, then in the folders of `model.source.path`, in those of PYTHONPATH, and among the installed packages.
E311 the module has no such attribute
    `factory` is `module:attribute`. The module was imported, but has no such attribute.
E312 the factory is not callable
    `factory` must name a class or a function that returns the model, not a model instance.
E313 the factory does not accept these arguments
    `kwargs` does not match the factory's parameters: one is missing or unknown.
E314 the factory raised an error
    The factory was called with `kwargs` and failed. The message gives the file and line that raised the error.
    Environment variables that it reads must be named in `model.source.env`, since it sees few others.
E315 the factory does not return a model
    The factory must return a `torch.nn.Module`.
E320 number of inputs
    The model's `forward` takes a different number of inputs than `model.inputs` declares, or takes them by keyword only.
    Inputs are passed by position, in the order of the spec.
E321 the model does not accept the declared inputs
    A call with inputs of the declared types and shapes failed. Correct `model.inputs`, or the model.
E322 the declared range is too wide
    The model works at one size of a dimension and fails at another within the range declared in `model.dims`. A model that
    takes only multiples of a number, such as the stride of a detector, is declared with `multiple_of`.
E323 number of outputs
    The model returns a different number of tensors than `model.outputs` declares. Nested tuples, lists and dicts are
    flattened, and their tensors counted in order.
E324 names of outputs
    The model returns a dictionary whose keys differ from the declared names.
E325 an output is not a tensor
    Every output must be a tensor, or a tuple, list or dictionary of tensors.
E326 shape of an output
    An output has a different shape than declared, or not always the same number of dimensions. Sizes may depend on the values
    of the inputs; leave such a shape out.
E328 the model returns NaN
    The original model returns NaN for some samples, so variants cannot be compared with it.
E330 the model is not deterministic
    Two calls with the same input in evaluation mode give different answers: dropout or another source of randomness is
    active.
E331 rows of a batch influence each other
    A sample gets a different answer beside other rows, usually because of batch statistics. When served, the answer would
    depend on other requests. A model whose layers amplify rounding is not meant: its rows change with the size of their batch,
    as they do with a few roundings of the inputs or not in double precision, but not with the rows beside them. If the first
    dimension counts no requests, such as the steps of a sequence, say so with `model: {batch: none}`.
E332 the model keeps state
    A call changes the answer of the next one. State must be passed as an input and returned as an output, because
    replicas do not share state.
E340 the samples cannot be read
    `model.samples` must be an .npz file with one array per input. Object arrays are pickled and therefore refused.
E341 the samples lack an input
    The samples have no array with the name of an input.
E342 type of the samples
    An array of samples cannot be converted to the declared type without changing its values.
E343 shape of the samples
    An array of samples does not have the declared shape with the rows as first dimension.
E344 number of samples
    The arrays have different numbers of rows, or no rows.
E345 shape of the labels
    `labels` must contain one label per row.
E346 samples that the spec does not allow
    `range` or `values` of an input exclude a value in the samples; NaN is in no range. Correct the samples or, if the model
    takes such values, the spec.
E350 unknown signature
    The SavedModel has no signature with the name given in `model.source.signature`, or no graph with the tag `serve`. The
    message lists the signatures that exist.
E351 a SavedModel without signatures
    The model can only be called from Python code, as is common for folders from TensorFlow Hub. A signature defines which
    tensors go in and come out: save the model again with one.
E352 parts of the SavedModel are missing
    The graph uses variables or assets whose files are not in the folder. Copy the whole folder.
E353 the graph has side effects
    A SavedModel is a program. Operators that call Python (PyFunc), read or write files, or access the network are refused,
    and so are operators that mlo does not know to be free of side effects. Vocabularies in the model's own `assets` are
    allowed.
E354 the model refers to files outside its folder
    It contains links, or refers to files elsewhere: vocabularies by path or URL, HDF5 values in another file, assets
    outside the folder. Save it again with everything inside.
E355 a file with weights only
    The HDF5 file has no model configuration. Save the whole model: `model.save("model.keras")`.
E356 an operator that is not part of TensorFlow
    The graph needs an operator from another library, such as TensorFlow Text, or from another TensorFlow version. Serve
    the part of the model that does not need it, and do the rest in the client.
E357 a Keras model without inputs
    The model was saved before it was called or given a `keras.Input`, so its inputs are unknown.
E358 not a plain tensor
    An input or output is sparse, ragged or another structure, which requests cannot carry.
E359 a Keras layer that depends on static sizes
    A served model takes batches and sequences of any size in its range. A layer of this model gives different answers
    when a size is not known in advance. Declare the size as a number, or replace the layer.
E360 an ONNX model's file is outside its folder
    An ONNX model names the files that hold its weights. mlo only reads files below the model's folder and does not follow
    symbolic or hard links, because the author of a model could name any file. Put the files next to the model.
E361 an ONNX model's file is missing or too short
    A model with external data consists of several files. One of them is missing or too short for the tensor that it
    should contain, or its declared length does not match the tensor's type and shape.
E362 an input or output that cannot be served
    Requests carry tensors of numbers, booleans and text. Sequences, maps (scikit-learn's ZipMap), optional and sparse
    tensors, bfloat16, float8 and complex numbers are not supported; leave such outputs out of `outputs`.
E363 inputs and outputs of an ONNX model
    The declared inputs or outputs differ from the model's in name, type, rank or size. Remove them from the spec to have
    them read from the model.
E364 an operator that ONNX Runtime does not support
    The model uses an operator from a custom domain, or one that this version of ONNX Runtime cannot run on the CPU. Custom
    operator libraries contain code and are never loaded.
E365 an empty ONNX model
    The model has no inputs, no outputs or no nodes.
E366 an operator that LiteRT does not support
    The LiteRT model was converted with "Select TF ops" and needs TensorFlow's kernels, or it uses custom operators from
    another library. Neither is part of LiteRT or available on most devices.
E367 LiteRT cannot prepare the model
    The file is intact, but its operators do not fit together or use settings that this version of LiteRT does not accept.
E370 a model that the Transformers library cannot build
    The installed version does not know the model type or the settings in config.json, or needs a package that is not
    installed; the message says which. Install a newer version, or export the model to ONNX.
E371 the task does not fit the model
    `auto` reads the task from `modules.json` or from `architectures` in config.json, and neither names a task that mlo
    serves; or the model type does not support the task given in the spec. Text generation is not supported.
E372 missing weights
    The Transformers library would initialize the missing tensors at random, and the answers would be meaningless. The
    message lists the tensors: usually a head that was never trained for this task, or a config.json of another model.
E373 weights that are already quantized
    They need additional packages and cannot be converted. Use the model before quantization.
E374 an unsupported module of a sentence-transformer
    mlo serves a model, one pooling over its tokens, dense layers and normalization as one model.
E375 inputs and outputs of a Transformers model
    The declared inputs or outputs differ from those of the model's task, or the model takes more than text or images
    alone, so that its inputs cannot be derived from its configuration.
E376 an adapter
    LoRA and other adapters are only a part of a model. Merge it with its base model first, using PEFT's
    `merge_and_unload()`.
"""
