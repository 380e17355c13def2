"""What the report says in words."""

METHOD = {
    "introduction": """\
An artifact returns a prediction and its guided-backprop map. The map needs a second pass of the size of the first, so
2.0 times the forward pass alone is the limit. This page says how near to it the artifacts come, what the other ways to
such a map take on the same machine, and what else they cost. `python scripts/benchmark.py` makes it;
`results.json` beside it holds every round's time. How each figure is measured, and why that is fair, stands
[at the end](#how-it-is-measured).""",
    "Bars and goals": """\
A bar is what must be reached, a goal what should be. The ratio depends on the machine: where arithmetic is fast, memory
traffic weighs more. So there are bars for machines whose resnet18 takes about 17 ms forward (fast: up to 25 ms), and
for those where it takes about 96 ms (slow: from 70 ms); between the two both are shown. For 224x224, float32, 1 thread.""",
    "Time / forward only in onnxruntime": """\
Medians of the rounds' ratios, with their quartiles. OpenVINO's rows are divided by onnxruntime's forward pass too; the
ratio to OpenVINO's own stands among the bars.""",
    "Relative L2 distance to live autograd's map": """\
Median over the batch. All that is timed computes the same map, or shows here that it does not.""",
    "Time / forward only in onnxruntime, pytorch-grad-cam": """\
pytorch-grad-cam imports torchvision, which Saliport does not need; so it runs where that is installed, and the forward
pass in onnxruntime runs beside it in the same process as the yardstick.""",
    "Each session alone in a fresh process": """\
Peak: the largest resident memory of the process (`VmHWM`) after loading and ten calls, minus the same before loading,
when everything was imported and the images made. It counts what loading needs for a moment, and the mapped pages of
files. OpenVINO's ratio is to its own forward pass, all others' to onnxruntime's. Steady: the median of the last five
calls. eager rows do not load a file: they build the network. Medians of the processes.""",
    "Export, seconds": """\
From a network in memory to files on disk, with all the threads that there are, in a fresh process that has imported
everything before the clock starts; and once more in the same process. The artifact's time includes its proof. Medians
of the processes.""",
    "Size of the files, MiB": "PyTorch writes the weights into the ONNX file here, as the artifact does.",
    "method": """\
## How it is measured

- **Processes.** Each network and batch has a process of its own, in which all contenders are loaded and take turns. The
  process is pinned to as many cores as there are threads before it imports anything, so that no library can use more;
  besides, each is told the number: `intra_op_num_threads`, `INFERENCE_NUM_THREADS`, `torch.set_num_threads`,
  `OMP_NUM_THREADS`.
- **Rounds.** In each round every contender has one call that is not timed, because another's weights are in the caches,
  and then two that are; their median (of two, the mean) is the round's time. The order of the turns changes with each
  round, a Williams square: every contender follows every other equally often. Python's garbage collector is off within a round.
- **Ratios** are taken within a round and then summarised by their median and quartiles, so a machine that is slower for
  a while does not change them.
- **The yardstick** is `torch.onnx.export(dynamo=True)` of the same network, with a dynamic batch as the artifact has, in
  onnxruntime at its default settings, the artifact's too.
- **OpenVINO** has both graphs with the batch's size set before they are compiled, the latency hint, one stream, and f32 as
  its inference precision. Its artifact is exported with `--optimize-for openvino`.
- **Peers** get the same network, its parameters frozen, so that autograd computes no gradient of weights for anybody.
  Captum and pytorch-grad-cam hook or replace `nn.ReLU` modules, which does not go with in-place ones: theirs are not in
  place. "Channels last" is Captum with network and images in that memory format, which may suit PyTorch's
  convolutions better. pytorch-grad-cam explains one image at a time: for a batch it is called for each image.
- **Live autograd** is `exporter.reference`, the judge of the proofs, without the counting that proofs need.
- **Weights** are random; the time does not depend on them. Images are random too, the same for everybody, and so is the
  class that is asked for. Inputs are made before the clock starts.""",
}
