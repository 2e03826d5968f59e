"""Which of TensorFlow's operators a served graph may hold: those that compute, and keep what they keep in memory.

An operator without state computes, by TensorFlow's own registration, except for the few in `REFUSED` that reach out all the
same. An operator with state is refused unless it stands in `MEMORY`. What is in `SAVER` and `TABLE_FILES` depends on where
it stands. Checked against the 1,910 operators that TensorFlow 2.21 registers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ATTRIBUTES", "MEMORY", "REFUSED", "SAVER_READS", "SAVER_WRITES", "TABLE_FILES", "VARIABLES", "why_refused"]

VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})

TABLE_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
"""Read a table from a file: allowed where that is an asset of the model's own folder."""

SAVER_READS = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
SAVER_WRITES = frozenset({"MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"})
"""Allowed where only the saver reaches them, which serving never runs; reads, from the model's own variables."""

_PYTHON = "calls a function of the Python process that made the model"
_READS = "reads files"
_WRITES = "writes files"
_NETWORK = "talks to other machines"
_HIDDEN = "runs a graph or native code that stands in it as data, where it cannot be looked at"

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
"""Operator → what it does besides computing."""

ATTRIBUTES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "DecodeProtoV2": ("descriptor_source", r"(local://|bytes://[\s\S]*)?", _READS),
        "EncodeProto": ("descriptor_source", r"(local://|bytes://[\s\S]*)?", _READS),
        "FixedUnigramCandidateSampler": ("vocab_file", "", _READS),
        "PrintV2": ("output_stream", r"stderr|stdout|log\(\w+\)", _WRITES),
    }
)
"""Operator → attribute that decides, what it may be (a regular expression), and what the operator does otherwise."""

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
"""Operators with state that stays inside the process."""


def why_refused(op: str, *, stateful: bool, attribute: str | None = None) -> str | None:
    """What an operator of TensorFlow does besides computing; None where it may stand in a served graph.

    Args:
        op: its name.
        stateful: whether TensorFlow registers it as one with state.
        attribute: of an operator in `ATTRIBUTES`, that attribute, if it is not left at its harmless default.
    """
    if op in REFUSED:
        return REFUSED[op]
    if attribute is not None and not re.fullmatch(ATTRIBUTES[op][1], attribute):
        return ATTRIBUTES[op][2]
    if stateful and not MEMORY.fullmatch(op):
        return "has effects outside the graph that mlo does not know"
    return None
