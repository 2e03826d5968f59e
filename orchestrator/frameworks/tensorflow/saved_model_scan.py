"""Refuses SavedModels whose graph does more than compute; checks every node of every graph and of every function it calls.

Operators that TensorFlow registers as stateless only compute, except for the few in `REFUSED`. A stateful operator is
refused unless it is in `MEMORY`. Whether those in `SAVER_*` and `TABLE_FILES` are allowed depends on their position.
Checked against the 1,910 operators that TensorFlow 2.21 registers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.steps.context import StepError

__all__ = [
    "ASSETS",
    "ATTRIBUTES",
    "INITIALIZER",
    "MEMORY",
    "REFUSED",
    "SAVER_READS",
    "SAVER_WRITES",
    "TABLE_FILES",
    "VARIABLES",
    "Graphs",
    "Place",
    "asset_files",
    "initializers",
    "refuse_effects",
    "why_refused",
]

VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})

TABLE_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
"""Operators that read a table from a file: allowed if it is an asset in the model's own folder."""

SAVER_READS = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
SAVER_WRITES = frozenset({"MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"})
"""Allowed if only the saver uses them, which serving never runs; reading is allowed from the model's own variables."""

_PYTHON = "calls a function of the Python process that made the model"
_READS = "reads files"
_WRITES = "writes files"
_NETWORK = "talks to other machines"
_HIDDEN = "runs a graph or native code that it holds as data, which mlo cannot inspect"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), _PYTHON),
        **dict.fromkeys(
            (
                "CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset", "ExperimentalLMDBDataset",
                "ExperimentalMatchingFilesDataset", "ExperimentalSqlDataset", "FixedLengthRecordDataset",
                "FixedLengthRecordDatasetV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2",
                "GenerateVocabRemapping", "IdentityReader", "IdentityReaderV2", "ImmutableConst", "ImportEvent",
                "LMDBDataset", "LMDBReader", "ListSnapshotChunksDataset", "LoadAndRemapMatrix", "LoadDataset",
                "MatchingFiles", "MatchingFilesDataset", "ReadFile", "RecordInput", "SnapshotChunkDataset",
                "Skipgram", "SnapshotDatasetReader", "SnapshotNestedDatasetReader", "SqlDataset", "TFRecordDataset",
                "TFRecordDatasetV2", "TFRecordReader", "TFRecordReaderV2", "TextLineDataset", "TextLineReader",
                "TextLineReaderV2", "WholeFileReader", "WholeFileReaderV2", "DTensorRestoreV2",
            ),
            _READS,
        ),
        **dict.fromkeys(
            (
                "CacheDataset", "CacheDatasetV2", "CalibrationStatisticsSaver", "CloseSummaryWriter",
                "CreateSummaryDbWriter", "CreateSummaryFileWriter", "DatasetToTFRecord", "DebugIdentity",
                "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary", "DistributedSave", "DumpTensor",
                "ExperimentalDatasetToTFRecord", "FlushSummaryWriter", "SaveDataset", "SaveDatasetV2", "SnapshotDataset",
                "SnapshotDatasetV2", "StatsAggregatorSetSummaryWriter", "SummaryWriter", "WriteAudioSummary", "WriteFile",
                "WriteGraphSummary", "WriteHistogramSummary", "WriteImageSummary", "WriteRawProtoSummary",
                "WriteScalarSummary", "WriteSummary",
            ),
            _WRITES,
        ),
        **dict.fromkeys(
            (
                "DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3", "DataServiceDatasetV4",
                "RegisterDataset", "RegisterDatasetV2", "RemoteCall", "RpcCall", "RpcClient", "RpcServer",
                "RpcServerRegister", "RpcServerStart", "Recv", "Send", "_Recv", "_Send", "_HostRecv", "_HostSend",
                "FileSystemSetConfiguration", "WorkerHeartbeat",
            ),
            _NETWORK,
        ),
        **dict.fromkeys(
            ("Copy", "CopyHost", "DatasetFromGraph", "MlirPassthroughOp", "XlaCustomCall", "XlaCustomCallV2"), _HIDDEN
        ),
        "Abort": "ends the process",
        "SleepOp": "waits",
        "SleepIdentityOp": "waits",
    }
)  # fmt: skip
"""Operator → its effect besides computing."""

ATTRIBUTES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "DecodeProtoV2": ("descriptor_source", r"(local://|bytes://[\s\S]*)?", _READS),
        "EncodeProto": ("descriptor_source", r"(local://|bytes://[\s\S]*)?", _READS),
        "FixedUnigramCandidateSampler": ("vocab_file", "", _READS),
        "PrintV2": ("output_stream", r"stderr|stdout|log\(\w+\)", _WRITES),
    }
)
"""Operator → the attribute that decides, its allowed values (a regular expression), and the effect of all others."""

MEMORY = re.compile(
    r"""
    # Control flow and checks; what they call is looked at too.
    Assert | CheckNumerics(V2)? | If | While | Case | StatefulPartitionedCall | Print(V2)? | GuaranteeConst | DeepCopy
    | DeviceIndex | IsTensorFloat32Enabled | _Arg | _Retval | Timestamp | Empty | DtypeWithDefaultOp | XlaCallModule
    | FakeQueue | SyncDevice | DummyIterationCounter | GraphDefVersion
    # Random numbers: `import` refuses a model that answers at random.
    | Random(Crop|Gamma|Poisson(V2)?|Shuffle|StandardNormal|Uniform|UniformInt) | (Parameterized)?TruncatedNormal
    | Multinomial | SampleDistortedBoundingBox(V2)? | NonDeterministicInts | Rng(ReadAndSkip|Skip) | \w*CandidateSampler
    | Stateful(RandomBinomial|StandardNormal(V2)?|TruncatedNormal|Uniform(FullInt|Int)?) | StatelessRandomGetAlg
    | (Anonymous|Dummy|Delete)(Random)?SeedGenerator | NegTrain
    # Variables, and how training changes them.
    | Variable(V2|Shape)? | TemporaryVariable | VarHandleOp | _VarHandlesOp | VarIsInitializedOp | _?ReadVariables?Op
    | Assign(Add|Sub)?VariableOp | DisableCopyOnRead | DestroyResourceOp | IsResourceHandleRefCounting
    | Resource(Gather(Nd)?|Scatter\w+|StridedSliceAssign|CountUpTo|(Sparse)?Apply\w+|ConditionalAccumulator)
    | ResourceAccumulator\w+ | (Sparse)?ConditionalAccumulator | CudnnRNN\w*
    # Tables, lists, queues and datasets in memory.
    | (Anonymous)?(HashTable|Mutable(Dense)?HashTable(OfTensors)?)(V2)? | LookupTable\w+V2
    | InitializeTable(V2|FromDataset) | TensorArray\w* | Stack(V2|PushV2|PopV2|CloseV2)?
    | (BoostedTrees|IsBoostedTrees)\w+ | (FIFO|PaddingFIFO|Priority|RandomShuffle)Queue(V2)? | Queue\w+V2 | Barrier
    | (Anonymous)?(MultiDevice)?Iterator(V2|V3|GetNext\w*|ToStringHandle)? | (Make|OneShot|Delete)Iterator
    | Tensor(Slice)?Dataset | SparseTensorSliceDataset | (Range|List|Generator|Reduce)Dataset | RandomDataset(V2)?
    | DatasetToSingleElement | Shuffle(AndRepeat)?Dataset(V2|V3) | (Experimental)?GroupByReducerDataset
    | (Anonymous|Dummy|Delete)MemoryCache | (Add|TakeMany|AddMany)Sparse(To|From)TensorsMap | Mutex(V2|Lock)
    | ConsumeMutexLock
    """,
    re.VERBOSE,
)
"""Operators whose state stays inside the process."""


def why_refused(op: str, *, stateful: bool, attribute: str | None = None) -> str | None:
    """The effect of a TensorFlow operator besides computing; None if a served graph may contain it.

    Args:
        op: its name.
        stateful: whether TensorFlow registers it as stateful.
        attribute: for an operator in `ATTRIBUTES`, the attribute's value, unless it is the harmless default.
    """
    if op in REFUSED:
        return REFUSED[op]
    if attribute is not None and not re.fullmatch(ATTRIBUTES[op][1], attribute):
        return ATTRIBUTES[op][2]
    if stateful and not MEMORY.fullmatch(op):
        return "has effects outside the graph that mlo does not know"
    return None


ASSETS = "saved_model_assets"
"""The collection with the assets, before they had a place of their own."""

INITIALIZER = "__saved_model_init_op"
"""The signature whose output is the operation that runs once when the graph is loaded."""

_PASSES_ON = frozenset({"Identity", "PlaceholderWithDefault"})
_USES_OF_A_VARIABLE = frozenset({"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"})
_FIRST_ARGUMENT = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "If": 1, "StatelessIf": 1, "Case": 1, "While": 0}
"""Operator that calls functions → the index of the first input that is passed to them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node in the graph or in one of its functions."""

    function: str
    node: str

    def __str__(self) -> str:
        return f"`{self.node}` of the function `{self.function}`" if self.function else f"`{self.node}`"


class Graphs:
    """The nodes of a MetaGraphDef and of its functions.

    Attributes:
        functions: name → FunctionDef.
        entry_functions: the functions that the loaded object calls.
    """

    def __init__(self, meta_graph: Any) -> None:
        self.functions: Mapping[str, Any] = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        self._nodes: dict[str, dict[str, Any]] = {"": {node.name: node for node in meta_graph.graph_def.node}}
        for name, function in self.functions.items():
            self._nodes[name] = {node.name: node for node in function.node_def}
        objects = meta_graph.object_graph_def
        self.entry_functions = frozenset(objects.concrete_functions)
        self._bound = {
            name: [objects.nodes[index].WhichOneof("kind") for index in function.bound_inputs]
            for name, function in objects.concrete_functions.items()
        }
        self._callers: dict[str, list[tuple[Place, Any]]] = defaultdict(list)
        for place, node in self.nodes():
            for called in self._called(node):
                self._callers[called].append((place, node))

    def nodes(self) -> Iterator[tuple[Place, Any]]:
        """Every node, starting with those of the graph itself."""
        for function, nodes in self._nodes.items():
            for name, node in nodes.items():
                yield Place(function, name), node

    def needed(self, references: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """What these tensors or operations depend on: the names of nodes of the graph itself, and of functions."""
        waiting = [_node_name(reference) for reference in references]
        seen: set[str] = set()
        called: set[str] = set()
        while waiting:
            name = waiting.pop()
            node = self._nodes[""].get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            called.update(self._called(node))
            waiting.extend(_node_name(reference) for reference in node.input)
        return frozenset(seen), self._needed_functions(called)

    def _needed_functions(self, names: Iterable[str]) -> frozenset[str]:
        """These functions and those that they call."""
        waiting = list(names)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.functions:
                continue
            seen.add(name)
            for node in self._nodes[name].values():
                waiting.extend(self._called(node))
        return frozenset(seen)

    def live_functions(self) -> frozenset[str]:
        """The functions that the graph or the loaded object calls; TensorFlow 1 keeps others that nothing can call."""
        called = {name for node in self._nodes[""].values() for name in self._called(node)}
        return self._needed_functions(called | self.entry_functions)

    def reached(self, references: Iterable[str]) -> frozenset[Place]:
        """Every node that these tensors or operations depend on, including whole functions."""
        nodes, functions = self.needed(references)
        return frozenset(Place("", name) for name in nodes) | self.reached_functions(functions)

    def reached_functions(self, names: Iterable[str]) -> frozenset[Place]:
        """Every node of these functions and of the functions that they call."""
        return frozenset(Place(name, node) for name in self._needed_functions(names) for node in self._nodes[name])

    def origins(self, place: Place, reference: str, fed: frozenset[str]) -> frozenset[str]:
        """The origins of a node's input, beyond nodes that only pass it on.

        Args:
            place: the node.
            reference: its input, by the graph's name.
            fed: tensors of the graph itself that are fed, which are origins.

        Returns:
            Names in `fed`; `asset` for a file of the loaded object; `elsewhere` for everything else.
        """
        found: set[str] = set()
        seen: set[tuple[str, str]] = set()
        waiting = [(place.function, reference)]
        while waiting:
            function, reference = waiting.pop()
            if (function, reference) in seen:
                continue
            seen.add((function, reference))
            tensor = reference if ":" in reference else f"{reference}:0"
            node = self._nodes[function].get(_node_name(reference))
            if not function and tensor in fed:
                found.add(tensor)
            elif node is not None:
                sources = self._sources(function, node)
                waiting.extend((function, source) for source in sources)
                if not sources:
                    found.add("elsewhere")
            else:
                found |= self._given(function, reference, waiting)
        return frozenset(found)

    def _sources(self, function: str, node: Any) -> list[str]:
        """The inputs whose value this node passes on unchanged; none if that is unknown."""
        if node.op in _PASSES_ON:
            return [node.input[0]]
        if node.op != "ReadVariableOp" or function:
            return []
        # TensorFlow 2 stores the path of an asset in a variable, which nothing else may write to.
        handle = self._nodes[""].get(_node_name(node.input[0]))
        if handle is None or handle.op != "VarHandleOp":
            return []
        names = [other.attr["shared_name"].s for _, other in self.nodes() if other.op == "VarHandleOp"]
        users = [n for n in self._nodes[""].values() if handle.name in map(_node_name, n.input)]
        if names.count(handle.attr["shared_name"].s) > 1 or {user.op for user in users} - _USES_OF_A_VARIABLE:
            return []
        return [user.input[1] for user in users if user.op == "AssignVariableOp"]

    def _given(self, function: str, argument: str, waiting: list[tuple[str, str]]) -> set[str]:
        """The origin of an argument that the loaded object passes; arguments from other functions are added to `waiting`."""
        if function not in self.functions:
            return {"elsewhere"}
        arguments = [given.name for given in self.functions[function].signature.input_arg]
        if argument not in arguments:
            return {"elsewhere"}
        index = arguments.index(argument)
        found: set[str] = set()
        if function in self.entry_functions:
            bound = self._bound[function]
            captured = index - (len(arguments) - len(bound))
            found.add("asset" if captured >= 0 and bound[captured] == "asset" else "elsewhere")
        for caller, node in self._callers[function]:
            first = _FIRST_ARGUMENT.get(node.op, 0 if node.op == function else None)
            inputs = [reference for reference in node.input if not reference.startswith("^")]
            if first is None or first + index >= len(inputs):
                found.add("elsewhere")
            else:
                waiting.append((caller.function, inputs[first + index]))
        return found

    def _called(self, node: Any) -> Iterator[str]:
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            for function in value.list.func:
                yield function.name


def _node_name(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]


_SHOWN = 8
_REMEDIES = {
    "calls a function of the Python process that made the model": "replace tf.py_function and tf.numpy_function by "
    "TensorFlow's own operations, and save the model again",
    "reads files": "let the model take the content as an input, or read the file where the model is made",
    "writes files": "save the model without it",
}


def refuse_effects(meta_graph: Any, folder: Path) -> None:
    """Refuse a graph that runs Python, accesses files of others, or uses the network when it is loaded or called.

    Raises:
        StepError: E353 an operator does so, E354 an asset is outside the folder, E356 an operator is not TensorFlow's own.
    """
    assets = _assets(meta_graph, folder)
    graphs = Graphs(meta_graph)
    found: dict[str, list[Place]] = defaultdict(list)
    effects: dict[str, str] = {}
    unknown: dict[str, list[Place]] = defaultdict(list)
    saver = _Saver.of(meta_graph, graphs)
    live = {"", *graphs.live_functions()}
    for place, node in graphs.nodes():
        if place.function not in live:
            continue
        operator = _registered(node.op)
        if operator is None:
            if node.op not in graphs.functions:  # TensorFlow 1 calls functions by name
                unknown[node.op].append(place)
            continue
        effect = _effect(node, place, operator, graphs, saver, assets)
        if effect is not None:
            found[node.op].append(place)
            effects[node.op] = effect
    if found:
        raise _refusal(found, effects)
    if unknown:
        name, places = next(iter(sorted(unknown.items())))
        raise StepError(
            "E356",
            f"TensorFlow has no operator `{name}`, which the graph uses ({_listed(places)})",
            cause="it comes from a separate library, or from another version of TensorFlow",
            remedy="move what needs it out of the model, before or after it, and save the model again",
            at=AT_WEIGHTS,
            notes=tuple(f"also: `{other}` ({_listed(at)})" for other, at in sorted(unknown.items())[1:_SHOWN]),
        )


def _effect(
    node: Any, place: Place, operator: Any, graphs: Graphs, saver: _Saver, assets: frozenset[str]
) -> str | None:
    if node.op in TABLE_FILES:
        file = next(reference for reference in node.input[1:] if not reference.startswith("^"))
        origins = graphs.origins(place, file, fed=assets)
        return None if origins and all(origin in {*assets, "asset"} for origin in origins) else "reads files"
    if node.op in SAVER_WRITES:
        return None if place in saver.saves and place not in saver.restores | saver.served else "writes files"
    if node.op in SAVER_READS:
        if place in saver.served or place not in saver.saves | saver.restores:
            return "reads files"
        origins = graphs.origins(place, node.input[0], fed=frozenset({saver.file}))
        return None if place not in saver.restores or origins == {saver.file} else "reads files"
    attribute = None
    if node.op in ATTRIBUTES and ATTRIBUTES[node.op][0] in node.attr:  # otherwise it has its default, which is harmless
        attribute = node.attr[ATTRIBUTES[node.op][0]].s.decode("utf-8", errors="replace")
    return why_refused(node.op, stateful=operator.is_stateful, attribute=attribute)


@dataclass(frozen=True, slots=True)
class _Saver:
    """The nodes that the saver's two operations use, and those that serving uses.

    Attributes:
        file: the tensor that gets the path of the variables.
    """

    saves: frozenset[Place]
    restores: frozenset[Place]
    served: frozenset[Place]
    file: str

    @staticmethod
    def of(meta_graph: Any, graphs: Graphs) -> _Saver:
        saver = meta_graph.saver_def
        tensors = [
            info.name
            for signature in meta_graph.signature_def.values()
            for infos in (signature.inputs, signature.outputs)
            for info in infos.values()
        ]
        served = graphs.reached(tensors) | graphs.reached_functions(graphs.entry_functions)
        return _Saver(
            saves=graphs.reached([saver.save_tensor_name]),
            restores=graphs.reached([saver.restore_op_name]),
            served=served | graphs.reached(initializers(meta_graph)),
            file=saver.filename_tensor_name,
        )


def initializers(meta_graph: Any) -> Iterator[str]:
    """The operations that run once when the graph is loaded."""
    for name in ("saved_model_main_op", "legacy_init_op", "table_initializer", "saved_model_init_op"):
        yield from meta_graph.collection_def[name].node_list.value if name in meta_graph.collection_def else ()
    if INITIALIZER in meta_graph.signature_def:
        yield from (info.name for info in meta_graph.signature_def[INITIALIZER].outputs.values())


def asset_files(meta_graph: Any) -> list[Any]:
    """The AssetFileDefs: which tensor gets the path of which file in `assets`."""
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

    definitions = list(meta_graph.asset_file_def)
    if not definitions and ASSETS in meta_graph.collection_def:
        for packed in meta_graph.collection_def[ASSETS].any_list.value:
            definition = AssetFileDef()
            packed.Unpack(definition)
            definitions.append(definition)
    return definitions


def _assets(meta_graph: Any, folder: Path) -> frozenset[str]:
    """The tensors that get the paths of the model's own files, all of which exist."""
    definitions = asset_files(meta_graph)
    for definition in definitions:
        path = PurePosixPath(definition.filename)
        if path.is_absolute() or ".." in path.parts:
            raise StepError(
                "E354",
                f"the asset `{definition.filename[:80]}` lies outside the SavedModel",
                cause="an asset is a file in the folder's `assets`",
                remedy="save the model again",
                at=AT_WEIGHTS,
            )
        if not (folder / "assets" / path).is_file():
            raise StepError(
                "E352",
                f"the SavedModel lacks the asset `{definition.filename[:80]}`",
                cause="there is no such file in the folder's `assets`",
                remedy="copy the whole folder, or save the model again",
                at=AT_WEIGHTS,
            )
    return frozenset(definition.tensor_info.name for definition in definitions)


def _registered(name: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


def _refusal(found: Mapping[str, list[Place]], effects: Mapping[str, str]) -> StepError:
    first = next(iter(found))
    return StepError(
        "E353",
        f"the graph holds `{first}`, which {effects[first]}",
        cause=f"it is the node {_listed(found[first])}",
        remedy=_REMEDIES.get(effects[first], "save the model without it"),
        at=AT_WEIGHTS,
        notes=tuple(f"also: `{op}`, which {effects[op]} ({_listed(found[op])})" for op in list(found)[1 : _SHOWN + 1]),
    )


def _listed(places: Iterable[Place]) -> str:
    every = list(places)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(str(place) for place in every[:3]) + more
