"""The measured sketch of the engine, which the engine was designed from: what speed has to be beaten."""
