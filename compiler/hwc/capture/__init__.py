"""From a model as its author left it to an ONNX graph, its weights, its tokenizer and its licences."""
