from edgepipe.wire.v1 import agent_pb2 as _agent_pb2
from edgepipe.wire.v1 import frame_pb2 as _frame_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Command(_message.Message):
    __slots__ = ("load", "connect", "admit", "cancel", "meter", "order", "tokens", "decide")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CONNECT_FIELD_NUMBER: _ClassVar[int]
    ADMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECIDE_FIELD_NUMBER: _ClassVar[int]
    load: Load
    connect: Connect
    admit: Admit
    cancel: Cancel
    meter: Meter
    order: Order
    tokens: Tokens
    decide: Decide
    def __init__(self, load: _Optional[_Union[Load, _Mapping]] = ..., connect: _Optional[_Union[Connect, _Mapping]] = ..., admit: _Optional[_Union[Admit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., meter: _Optional[_Union[Meter, _Mapping]] = ..., order: _Optional[_Union[Order, _Mapping]] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., decide: _Optional[_Union[Decide, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("api", "job", "epoch", "fence", "stage", "num_stages", "engine", "config_json", "first", "end", "embedding", "head", "dtype", "num_slots", "max_positions", "prefill_chunk", "hidden_size", "vocab_size", "codec", "weights", "options_json", "num_groups", "training", "weight_format", "max_draft", "draft_cost")
    API_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    NUM_STAGES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    NUM_GROUPS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_COST_FIELD_NUMBER: _ClassVar[int]
    api: int
    job: str
    epoch: int
    fence: int
    stage: int
    num_stages: int
    engine: str
    config_json: str
    first: int
    end: int
    embedding: bool
    head: bool
    dtype: _frame_pb2.DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    hidden_size: int
    vocab_size: int
    codec: _frame_pb2.Codec
    weights: _containers.RepeatedScalarFieldContainer[str]
    options_json: str
    num_groups: int
    training: Training
    weight_format: _frame_pb2.WeightFormat
    max_draft: int
    draft_cost: float
    def __init__(self, api: _Optional[int] = ..., job: _Optional[str] = ..., epoch: _Optional[int] = ..., fence: _Optional[int] = ..., stage: _Optional[int] = ..., num_stages: _Optional[int] = ..., engine: _Optional[str] = ..., config_json: _Optional[str] = ..., first: _Optional[int] = ..., end: _Optional[int] = ..., embedding: bool = ..., head: bool = ..., dtype: _Optional[_Union[_frame_pb2.DType, str]] = ..., num_slots: _Optional[int] = ..., max_positions: _Optional[int] = ..., prefill_chunk: _Optional[int] = ..., hidden_size: _Optional[int] = ..., vocab_size: _Optional[int] = ..., codec: _Optional[_Union[_frame_pb2.Codec, str]] = ..., weights: _Optional[_Iterable[str]] = ..., options_json: _Optional[str] = ..., num_groups: _Optional[int] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., weight_format: _Optional[_Union[_frame_pb2.WeightFormat, str]] = ..., max_draft: _Optional[int] = ..., draft_cost: _Optional[float] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("full", "seed", "recompute", "weight_decay", "beta1", "beta2", "eps", "eight_bit", "rank", "alpha", "dropout", "target_modules", "dtype", "max_rows", "max_order_rows", "credits_forward", "credits_backward", "exchange")
    FULL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    EIGHT_BIT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_ORDER_ROWS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FORWARD_FIELD_NUMBER: _ClassVar[int]
    CREDITS_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    full: bool
    seed: int
    recompute: bool
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    eight_bit: bool
    rank: int
    alpha: float
    dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    dtype: _frame_pb2.DType
    max_rows: int
    max_order_rows: int
    credits_forward: int
    credits_backward: int
    exchange: bool
    def __init__(self, full: bool = ..., seed: _Optional[int] = ..., recompute: bool = ..., weight_decay: _Optional[float] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., eight_bit: bool = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., dtype: _Optional[_Union[_frame_pb2.DType, str]] = ..., max_rows: _Optional[int] = ..., max_order_rows: _Optional[int] = ..., credits_forward: _Optional[int] = ..., credits_backward: _Optional[int] = ..., exchange: bool = ...) -> None: ...

class Connect(_message.Message):
    __slots__ = ("addresses", "fence", "node", "upstream_node")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_NODE_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Address]
    fence: int
    node: str
    upstream_node: str
    def __init__(self, addresses: _Optional[_Iterable[_Union[_agent_pb2.Address, _Mapping]]] = ..., fence: _Optional[int] = ..., node: _Optional[str] = ..., upstream_node: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "num_likely")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    NUM_LIKELY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    num_likely: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., num_likely: _Optional[int] = ...) -> None: ...

class Admit(_message.Message):
    __slots__ = ("sequence", "prompt_ids", "sampling", "max_tokens", "eos_ids", "prompt_logits")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGITS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_tokens: int
    eos_ids: _containers.RepeatedScalarFieldContainer[int]
    prompt_logits: bool
    def __init__(self, sequence: _Optional[int] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., eos_ids: _Optional[_Iterable[int]] = ..., prompt_logits: bool = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Meter(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Order(_message.Message):
    __slots__ = ("order", "step", "evaluate", "actions", "microbatches", "loss_weight", "codec_forward", "codec_backward", "rehearse")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    MICROBATCHES_FIELD_NUMBER: _ClassVar[int]
    LOSS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FORWARD_FIELD_NUMBER: _ClassVar[int]
    CODEC_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    REHEARSE_FIELD_NUMBER: _ClassVar[int]
    order: int
    step: int
    evaluate: bool
    actions: _containers.RepeatedScalarFieldContainer[str]
    microbatches: _containers.RepeatedCompositeFieldContainer[Lengths]
    loss_weight: float
    codec_forward: _frame_pb2.Codec
    codec_backward: _frame_pb2.Codec
    rehearse: bool
    def __init__(self, order: _Optional[int] = ..., step: _Optional[int] = ..., evaluate: bool = ..., actions: _Optional[_Iterable[str]] = ..., microbatches: _Optional[_Iterable[_Union[Lengths, _Mapping]]] = ..., loss_weight: _Optional[float] = ..., codec_forward: _Optional[_Union[_frame_pb2.Codec, str]] = ..., codec_backward: _Optional[_Union[_frame_pb2.Codec, str]] = ..., rehearse: bool = ...) -> None: ...

class Lengths(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("order", "microbatch", "token_ids", "targets")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MICROBATCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    order: int
    microbatch: int
    token_ids: bytes
    targets: bytes
    def __init__(self, order: _Optional[int] = ..., microbatch: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., targets: _Optional[bytes] = ...) -> None: ...

class Decide(_message.Message):
    __slots__ = ("order", "apply", "learning_rate", "scale", "export")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    APPLY_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    order: int
    apply: bool
    learning_rate: float
    scale: float
    export: bool
    def __init__(self, order: _Optional[int] = ..., apply: bool = ..., learning_rate: _Optional[float] = ..., scale: _Optional[float] = ..., export: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("loading", "loaded", "connected", "sampled", "logits", "failed", "cancelled", "admitted", "metered", "ready", "applied")
    LOADING_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    METERED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    loading: Loading
    loaded: Loaded
    connected: Connected
    sampled: Sampled
    logits: Logits
    failed: Failed
    cancelled: Cancelled
    admitted: Admitted
    metered: Metered
    ready: Ready
    applied: Applied
    def __init__(self, loading: _Optional[_Union[Loading, _Mapping]] = ..., loaded: _Optional[_Union[Loaded, _Mapping]] = ..., connected: _Optional[_Union[Connected, _Mapping]] = ..., sampled: _Optional[_Union[Sampled, _Mapping]] = ..., logits: _Optional[_Union[Logits, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., cancelled: _Optional[_Union[Cancelled, _Mapping]] = ..., admitted: _Optional[_Union[Admitted, _Mapping]] = ..., metered: _Optional[_Union[Metered, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ...) -> None: ...

class Sampled(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[_frame_pb2.SampledToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[_frame_pb2.SampledToken, _Mapping]]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("order", "sum_of_squares", "loss_sums", "broken", "busy_s", "sent_bytes", "returned_bytes", "inflight", "forward_s", "backward_s", "dot")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_SQUARES_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUMS_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETURNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    FORWARD_S_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_S_FIELD_NUMBER: _ClassVar[int]
    DOT_FIELD_NUMBER: _ClassVar[int]
    order: int
    sum_of_squares: float
    loss_sums: _containers.RepeatedScalarFieldContainer[float]
    broken: Broken
    busy_s: float
    sent_bytes: int
    returned_bytes: int
    inflight: int
    forward_s: float
    backward_s: float
    dot: float
    def __init__(self, order: _Optional[int] = ..., sum_of_squares: _Optional[float] = ..., loss_sums: _Optional[_Iterable[float]] = ..., broken: _Optional[_Union[Broken, _Mapping]] = ..., busy_s: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., returned_bytes: _Optional[int] = ..., inflight: _Optional[int] = ..., forward_s: _Optional[float] = ..., backward_s: _Optional[float] = ..., dot: _Optional[float] = ...) -> None: ...

class Broken(_message.Message):
    __slots__ = ("microbatch", "what")
    MICROBATCH_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    microbatch: int
    what: str
    def __init__(self, microbatch: _Optional[int] = ..., what: _Optional[str] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("order", "peak_bytes")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    order: int
    peak_bytes: int
    def __init__(self, order: _Optional[int] = ..., peak_bytes: _Optional[int] = ...) -> None: ...

class Loading(_message.Message):
    __slots__ = ("done_bytes", "total_bytes")
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    done_bytes: int
    total_bytes: int
    def __init__(self, done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("weight_bytes", "kv_bytes", "baseline_bytes", "peak_bytes", "units")
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASELINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    weight_bytes: int
    kv_bytes: int
    baseline_bytes: int
    peak_bytes: int
    units: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, weight_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., baseline_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., units: _Optional[_Iterable[str]] = ...) -> None: ...

class Connected(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: _agent_pb2.Address
    def __init__(self, address: _Optional[_Union[_agent_pb2.Address, _Mapping]] = ...) -> None: ...

class Admitted(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Logits(_message.Message):
    __slots__ = ("sequence", "start", "num_rows", "rows")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    start: int
    num_rows: int
    rows: bytes
    def __init__(self, sequence: _Optional[int] = ..., start: _Optional[int] = ..., num_rows: _Optional[int] = ..., rows: _Optional[bytes] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("kind", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class LinkMeasured(_message.Message):
    __slots__ = ("address", "bytes_per_s", "latency_s", "raw_tcp_bytes_per_s")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    RAW_TCP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    address: _agent_pb2.Address
    bytes_per_s: float
    latency_s: float
    raw_tcp_bytes_per_s: float
    def __init__(self, address: _Optional[_Union[_agent_pb2.Address, _Mapping]] = ..., bytes_per_s: _Optional[float] = ..., latency_s: _Optional[float] = ..., raw_tcp_bytes_per_s: _Optional[float] = ...) -> None: ...

class Cancelled(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Metered(_message.Message):
    __slots__ = ("busy_s", "num_frames")
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    busy_s: float
    num_frames: int
    def __init__(self, busy_s: _Optional[float] = ..., num_frames: _Optional[int] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("api", "fence", "engine", "config_json", "dtype", "num_slots", "max_positions", "prefill_chunk", "sequence_length", "memory_bytes", "rank", "weight_format", "offsets")
    API_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    api: int
    fence: int
    engine: str
    config_json: str
    dtype: _frame_pb2.DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    sequence_length: int
    memory_bytes: int
    rank: int
    weight_format: _frame_pb2.WeightFormat
    offsets: bool
    def __init__(self, api: _Optional[int] = ..., fence: _Optional[int] = ..., engine: _Optional[str] = ..., config_json: _Optional[str] = ..., dtype: _Optional[_Union[_frame_pb2.DType, str]] = ..., num_slots: _Optional[int] = ..., max_positions: _Optional[int] = ..., prefill_chunk: _Optional[int] = ..., sequence_length: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., rank: _Optional[int] = ..., weight_format: _Optional[_Union[_frame_pb2.WeightFormat, str]] = ..., offsets: bool = ...) -> None: ...

class ProfileEvent(_message.Message):
    __slots__ = ("progress", "profiled")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PROFILED_FIELD_NUMBER: _ClassVar[int]
    progress: ProfileProgress
    profiled: Profiled
    def __init__(self, progress: _Optional[_Union[ProfileProgress, _Mapping]] = ..., profiled: _Optional[_Union[Profiled, _Mapping]] = ...) -> None: ...

class ProfileProgress(_message.Message):
    __slots__ = ("done", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class Curve(_message.Message):
    __slots__ = ("rows", "seconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[int]
    seconds: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, rows: _Optional[_Iterable[int]] = ..., seconds: _Optional[_Iterable[float]] = ...) -> None: ...

class ItemSpeed(_message.Message):
    __slots__ = ("decode", "prefill", "forward", "backward", "attention_s", "prefill_attention_s", "update_s")
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_ATTENTION_S_FIELD_NUMBER: _ClassVar[int]
    UPDATE_S_FIELD_NUMBER: _ClassVar[int]
    decode: Curve
    prefill: Curve
    forward: Curve
    backward: Curve
    attention_s: float
    prefill_attention_s: float
    update_s: float
    def __init__(self, decode: _Optional[_Union[Curve, _Mapping]] = ..., prefill: _Optional[_Union[Curve, _Mapping]] = ..., forward: _Optional[_Union[Curve, _Mapping]] = ..., backward: _Optional[_Union[Curve, _Mapping]] = ..., attention_s: _Optional[float] = ..., prefill_attention_s: _Optional[float] = ..., update_s: _Optional[float] = ...) -> None: ...

class CodecSpeed(_message.Message):
    __slots__ = ("codec", "encode_s", "decode_s", "encode_call_s", "decode_call_s")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ENCODE_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    ENCODE_CALL_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_CALL_S_FIELD_NUMBER: _ClassVar[int]
    codec: _frame_pb2.Codec
    encode_s: float
    decode_s: float
    encode_call_s: float
    decode_call_s: float
    def __init__(self, codec: _Optional[_Union[_frame_pb2.Codec, str]] = ..., encode_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., encode_call_s: _Optional[float] = ..., decode_call_s: _Optional[float] = ...) -> None: ...

class Profiled(_message.Message):
    __slots__ = ("kinds", "layers", "embedding", "head", "codecs", "overhead_s")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_S_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[int]
    layers: _containers.RepeatedCompositeFieldContainer[ItemSpeed]
    embedding: ItemSpeed
    head: ItemSpeed
    codecs: _containers.RepeatedCompositeFieldContainer[CodecSpeed]
    overhead_s: float
    def __init__(self, kinds: _Optional[_Iterable[int]] = ..., layers: _Optional[_Iterable[_Union[ItemSpeed, _Mapping]]] = ..., embedding: _Optional[_Union[ItemSpeed, _Mapping]] = ..., head: _Optional[_Union[ItemSpeed, _Mapping]] = ..., codecs: _Optional[_Iterable[_Union[CodecSpeed, _Mapping]]] = ..., overhead_s: _Optional[float] = ...) -> None: ...

class MeasureLinkRequest(_message.Message):
    __slots__ = ("api", "job", "fence", "target_fence", "addresses", "node", "frame_bytes")
    API_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FENCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    api: int
    job: str
    fence: int
    target_fence: int
    addresses: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Address]
    node: str
    frame_bytes: int
    def __init__(self, api: _Optional[int] = ..., job: _Optional[str] = ..., fence: _Optional[int] = ..., target_fence: _Optional[int] = ..., addresses: _Optional[_Iterable[_Union[_agent_pb2.Address, _Mapping]]] = ..., node: _Optional[str] = ..., frame_bytes: _Optional[int] = ...) -> None: ...

class ExportStateRequest(_message.Message):
    __slots__ = ("fence", "order")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    fence: int
    order: int
    def __init__(self, fence: _Optional[int] = ..., order: _Optional[int] = ...) -> None: ...

class StateChunk(_message.Message):
    __slots__ = ("fence", "unit", "unit_bytes", "data")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    UNIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    fence: int
    unit: str
    unit_bytes: int
    data: bytes
    def __init__(self, fence: _Optional[int] = ..., unit: _Optional[str] = ..., unit_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportStateReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
