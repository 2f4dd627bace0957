"""The graphs of the onnxruntime and transformers.js rows of encode.ts, from the weights of the run, into options.onnx:
onnx/model.onnx and onnx/model_quantized.onnx as a hub folder has them (dynamic int8), fused.onnx and fused_int8.onnx after onnxruntime's own BERT optimizer."""
import json
import logging
import os
import warnings

from peers_cpu import bert, options, skip

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
try:
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions
except ImportError as error:
    skip(str(error))

folder, c = options["onnx"], options["config"]
os.makedirs(f"{folder}/onnx", exist_ok=True)
with open(f"{folder}/config.json", "w") as f:
    json.dump({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": c["vocab"], "hidden_size": c["hidden"],
        "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"], "intermediate_size": c["intermediate"],
        "max_position_embeddings": c["maxPositions"], "type_vocab_size": c["typeVocab"], "hidden_act": "gelu"}, f)


class LastHidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state


model = bert()
model.set_attn_implementation("eager")  # the form that the optimizer knows
plain, fused = f"{folder}/onnx/model.onnx", f"{folder}/fused.onnx"
ids = torch.randint(1, c["vocab"], (2, 16))
axes = {0: "batch", 1: "tokens"}
names = ["input_ids", "attention_mask", "token_type_ids"]
with torch.no_grad():
    torch.onnx.export(
        LastHidden(model), (ids, torch.ones_like(ids), torch.zeros_like(ids)), plain, input_names=names, output_names=["last_hidden_state"],
        dynamic_axes={name: axes for name in [*names, "last_hidden_state"]}, opset_version=17, dynamo=False)
fusion = FusionOptions("bert")
fusion.enable_gelu_approximation = False  # the exact erf form, as everywhere
optimized = optimizer.optimize_model(plain, "bert", num_heads=c["heads"], hidden_size=c["hidden"], optimization_options=fusion, opt_level=1)
optimized.save_model_to_file(fused)
statistics = {k: v for k, v in optimized.get_fused_operator_statistics().items() if v}
for source, target in ((plain, f"{folder}/onnx/model_quantized.onnx"), (fused, f"{folder}/fused_int8.onnx")):
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
print(json.dumps({"fused": statistics}))
