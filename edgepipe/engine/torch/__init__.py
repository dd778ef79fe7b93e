"""The torch engine: layers [a, b) of a Hugging Face causal LM on one device.

    architecture  config -> model on the meta device
    anatomy       what stands before, in and after its stack of layers, found by a probe
    probe         anatomy -> ModelShape, for the planner
    part          one weight file's table of contents
    gguf_rows     GGUF blocks -> float32 rows, as the model wants them
    weights       parts -> the stage's parameters, in bounded pieces
    stage_model   the model's own forward, cut to the stage
    batch         spans -> the rectangles that the model is called with
    attention     masks for rows of unequal length
    cache         keys and values by slot
    build         all of these but the cache: a stage's model with its weights
    rehearsal     a tiny model, for what libraries load late
    engine        all of it behind the engine protocol

    padding       sequences of unequal length, packed and padded
    dropout       seeds by run, step, microbatch and layer
    layer_calls   a stage's own layers: seeded, and computed again if wanted
    precision     autocast, and how long its casts live
    cross_entropy a head's loss
    passes        microbatches forward and backward
    linear        leaf names of linear modules
    adapters      LoRA beside them
    optimizer     AdamW
    tied          an embedding that another stage owns
    units         what is trained, as checkpoints keep it
    training      all of it behind the engine protocol of training

    sample        layers with random weights, for measuring
    bench         calls of them that are timed
    median        repeats that take turns
    measure       calls -> the seconds of each item, for decode and prefill
    measure_training   and for a microbatch

Import what you need from these modules; `engine` and `training` are heavy.
"""
