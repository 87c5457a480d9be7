"""Tool contracts: what a model may call, who may call it, at what cost, and the record of every call."""
