"""The ONNX engine: layers [a, b) of a causal LM on ONNX Runtime, for inference.

    support       which machines and models it is for
    providers     a device -> ONNX Runtime's execution providers
    blocks        matrices in blocks of 4 or 8 bits
    tensors       a stage's own tensors, read from its parts one by one
    config        a config as the model builder reads it
    graph         the builder's class, cut to a stage
    build         all of these: a folder with a graph and its weights
    store         such folders, kept by what they were built of
    session       a folder -> a session
    slots         keys and values by slot
    calls         spans -> calls of the session
    runner        calls on tensors where they lie
    engine        all of it behind the engine protocol

How matrices are held, in blocks of 32 values (MatMulNBits, activations rounded to 8 bits):

    held      from GGUF                                    from anything else
    float32   the values                                   the values
    int8      Q8_0 as it is, others rounded anew           rounded
    int4      Q4_0 and Q4_1 as they are, others rounded    rounded, symmetric
    head      Q8_0 as it is; int4 keeps Q4_0 and Q4_1      rounded to 8 bits under int4 too
    embedding Q8_0 as it is; int4 keeps no other           rounded to 8 bits under int4 and int8

Fused matrices (Phi 3's) are taken apart and rounded anew. Float embeddings are looked up in the
type that their file holds, mapped from the disk.

Import what you need from these modules; `graph` takes seconds and is imported to build.
"""
