"""What the codes E3xx and W3xx mean: the model as given, its code, its inputs and outputs, its samples."""

from __future__ import annotations

__all__ = ["MODEL_CODES"]

MODEL_CODES = """
E301 the weights are not what they should be
    `model.source.weights` leads to no file, or to one of another kind than `kind:` says: the message tells which. The path
    is relative to the spec's folder.
E302 the model file cannot be loaded
    The file is damaged, cut short, of another kind than `model.source.kind` says, or written by a newer PyTorch.
    Copy or save it again.
E303 the model file carries code
    A pickled model runs whatever its author put into it when it is loaded, so only tensors are taken. Save the
    state dict, best as safetensors, and name the class that builds the model in `factory`. Of a Transformers folder no
    code is run, neither what `auto_map` names nor modules of somebody's own. A Keras file may hold Lambda
    layers, custom classes and functions: replace them by layers of Keras' own operations, or export the model to a
    SavedModel or to ONNX where its code is at home.
E304 `weights_key` leads nowhere
    `weights_key` is the way from the checkpoint's outermost dict to the state dict, keys with dots between, and on to the
    part of it whose names begin alike: `state_dict.model` in a checkpoint of PyTorch Lightning. The message lists the keys
    that are there.
E305 keys of weights and model differ
    The state dict has keys that the model does not, or lacks some. Usually the factory builds another size or
    variant than was trained, or the keys have a prefix such as `module.`, which `weights_key` then ends with.
E306 shapes of weights and model differ
    A stored tensor has another shape than the model's. Give the factory the sizes that the model was trained with
    in `kwargs`.
E307 types of weights and model differ
    A stored tensor has another type than the model's and cannot be taken over without changing its values.
E308 not a state dict of tensors
    The checkpoint holds something else where the state dict was looked for. `weights_key` says where it is.
E310 the model's code cannot be imported
    The module that `factory` names is missing or raises when it is imported. It is looked for in the spec's folder
    first, then among the installed packages.
E311 the module has no such attribute
    `factory` is `module:attribute`; the module was imported and has no such attribute.
E312 the factory is not callable
    `factory` names a class or a function that returns the model, not a finished model.
E313 the factory does not take these arguments
    `kwargs` does not fit the factory's parameters: one is missing or unknown.
E314 the factory raised an error
    The factory was called with `kwargs` and failed. The message names the file and line that raised.
E315 the factory does not return a model
    What the factory returns must be a `torch.nn.Module`.
E320 number of inputs
    The model's `forward` takes another number of inputs than `model.inputs` declares, or takes them by keyword
    only. Inputs are given by position, in the order of the spec.
E321 the model does not take the declared inputs
    A call with inputs of the declared types and shapes failed. Correct `model.inputs`, or the model.
E322 the declared range is too wide
    The model works at one size of a dimension and fails at another within the range that `model.dims` declares.
E323 number of outputs
    The model returns another number of tensors than `model.outputs` declares. Nested tuples, lists and dicts are
    counted tensor by tensor, in their order.
E324 names of outputs
    The model returns a dictionary whose keys are not the declared names.
E325 an output is not a tensor
    Every output has to be a tensor, or a tuple, list or dictionary of tensors.
E326 shape of an output
    An output has another shape than declared, or a shape that depends on the values of the inputs, which no served
    format can promise.
E327 an output without the batch dimension
    The rows of a batch can only be told apart if the first dimension of every output is the batch.
E328 the model answers NaN
    The model as given answers NaN for some samples. Nothing can be proven equal to NaN.
E330 the model is random
    Asked twice, the model answers differently in evaluation mode: dropout, or other random numbers, is left on.
E331 rows of a batch influence each other
    A sample alone and the same sample inside a batch get different answers, mostly from batch statistics. Served,
    the answer would depend on who else asks at the same time.
E332 the model remembers
    A call changes what the next one answers. State has to be an input and an output, since replicas share none.
E340 the samples cannot be read
    `model.samples` is an .npz file with one array per input. Object arrays are pickled and are refused.
E341 the samples lack an input
    The samples have no array with the name of an input.
E342 type of the samples
    A samples array cannot be taken as the declared type without changing its values.
E343 shape of the samples
    A samples array does not have the declared shape with the rows as its first dimension.
E344 number of samples
    The arrays have different numbers of rows, or none.
E345 shape of the labels
    `labels` has to hold one label for each row.
E350 no such signature
    `model.source.signature` names a signature that the SavedModel does not have, or none of its graphs has the tag
    `serve`. The message lists what is there.
E351 a SavedModel without signatures
    It holds an object that only Python code can call, as folders of TensorFlow Hub often do. A signature says which
    tensors go in and come out: save the model again with one.
E352 parts of the SavedModel are missing
    The graph has variables or assets, and their files are not in the folder. Copy the folder as a whole.
E353 the graph does more than compute
    A SavedModel is a program. Operators that call Python (PyFunc), read or write files, or talk to other machines are
    refused, as is all that mlo does not know to stay in memory; vocabularies in the model's own `assets` are allowed.
E354 the model reaches outside its file or folder
    It holds links, or names files elsewhere: vocabularies by path or URL, values of an HDF5 file in another one, assets
    outside the folder. Save it again with everything inside.
E355 a file with weights only
    The HDF5 file has no configuration of a model. Save the whole model: `model.save("model.keras")`.
E356 an operator that is not TensorFlow's
    The graph needs an operator from a library of its own, such as TensorFlow Text, or from another TensorFlow. Serve the
    part that needs none, and do the rest in front of it or behind it.
E357 a Keras model without inputs
    It was saved before it was called or given a `keras.Input`, so that nothing says which tensors it takes.
E358 not a plain tensor
    An input or output is sparse, ragged or another structure, which no request can carry.
E359 a Keras model that goes wrong where sizes are open
    Served, a model takes batches and sequences of every size in its range. A layer of this one answers otherwise when it
    does not know a size beforehand than when it does. Declare the size as a number, or replace the layer.
E360 an ONNX model's file lies outside of its folder
    An ONNX model names the files that hold its weights by itself. Only files below the folder of the model are read, and
    none through a symbolic or hard link, since whoever made the model could name any. Put the files beside it.
E361 an ONNX model's file is not there, or too short
    A model with external data is all of its files; one of them is missing, ends before the tensor that should lie in
    it, or is said to hold another number of bytes than the tensor's type and shape need.
E362 an input or output that cannot be served
    Requests carry tensors of numbers, booleans and texts. Sequences, maps (scikit-learn's ZipMap), optional and sparse
    tensors, bfloat16, float8 and complex numbers are none; an output of such a kind can be left out of `outputs`.
E363 inputs and outputs of an ONNX model
    What is declared is not what the model has: another name, type, number of dimensions or size. Left out of the
    spec, both are read from the model.
E364 an operator that ONNX Runtime does not have
    The model uses an operator of a custom domain, or one that ONNX Runtime cannot run on the CPU in this version. A
    library of custom operators is code and is never loaded.
E365 an ONNX model without a graph to run
    It has no inputs, no outputs or no nodes.
E366 an operator that LiteRT does not have
    The LiteRT model was converted with "Select TF ops", and needs TensorFlow's kernels, or it has custom operators, which
    come as a library of their own. Neither is there in LiteRT itself, nor on most devices.
E367 LiteRT cannot prepare the model
    The file is whole, but its operators do not fit together or their settings are not what this LiteRT takes.
E370 a model that the Transformers library does not build
    The installed version does not know the type or the settings that config.json names, or needs a package that is not
    installed. The message says which. A newer version may know it; otherwise export the model to ONNX.
E371 the task and the model do not fit
    `auto` takes the task from `modules.json` or from `architectures` in config.json, and neither names one that mlo
    serves; or the model's type has nothing for the task that the spec names. Models that write text are not served.
E372 weights that do not fill the model
    The Transformers library would make up at random what the folder lacks, and the model would answer nonsense. The
    message lists the tensors: a head that was never trained for this task, or a config.json of another model.
E373 weights that are quantized already
    They need packages of their own and do not convert. Give the model before it was quantized.
E374 a module of a sentence-transformer that mlo does not have
    A model, one pooling over its tokens, dense layers and normalization can be served as one model.
E375 inputs and outputs of a Transformers model
    What is declared is not what the model has for its task, or the model takes more than texts or images alone, so that
    its inputs cannot be derived from its configuration.
E376 an adapter
    LoRA and other adapters are a part of a model. Join it with its base model first, with `merge_and_unload()` of PEFT.
"""
