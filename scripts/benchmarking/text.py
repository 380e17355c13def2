"""What the report says in words."""

INTRODUCTION = """\
An artifact returns a prediction and its guided-backprop map. The map needs a second pass of the size of the first, so
2.0 times the forward pass alone is the limit. This page says how near to it the artifacts come, what other ways to such
a map take on the same machine, and what else they cost. `python scripts/benchmark.py` makes it; `results.json` beside
it holds the time of every round. How each figure is measured, and why that is fair, stands
[at the end](#how-it-is-measured)."""

BARS = """\
A bar is what must be reached, a goal what should be. The ratio depends on the machine: where arithmetic is fast, memory
traffic weighs more. So there are bars for machines whose resnet18 takes about 17 ms forward (fast: up to 25 ms), and
for those where it takes about 96 ms (slow: from 70 ms); between the two both are shown. Times are for 224x224, float32,
1 thread. A figure is held against its bar unrounded, and none that is marked † is met: its map is another one.
±: a quartile lies on the other side of the limit. Captum is called as its documentation does it; with channels last it
is faster, and that stands beside it below."""

WITHIN = """\
Medians of the rounds' ratios, with their quartiles. †: one of the two computes another map than live autograd, by the
distances below."""

RATIOS = """\
The same rounds, every contender divided by the forward pass alone in onnxruntime; OpenVINO's too."""

ERROR = """\
The median over the batch. What is timed computes the same map, or shows here that it does not: Captum and
pytorch-grad-cam know `nn.ReLU` modules alone, so a ReLU6 or a functional call keeps its plain gradient with them, which
takes less time too. A map in float32 may differ by a rectifier that decides otherwise within rounding, 1e-4 or so; with
TF32, which rounds more, live autograd itself differs by 1e-2 or so."""

BY_HAND = """\
A compiler should not lose to a person. `scripts/benchmarking/by_hand.py` writes resnet18's two passes node by node,
in the forms that were known to be fast in onnxruntime before Saliport had passes of its own. It leaves out the
predicted class and the check of the target, which the artifact has."""

GRAD_CAM = """\
pytorch-grad-cam imports torchvision, which Saliport does not need. So it runs where that is installed, and the forward
pass in onnxruntime runs beside it in the same process, as the yardstick."""

CUDA = """\
On a GPU, where images and maps stay; a call ends when the GPU has. TF32, the default of PyTorch and onnxruntime alike,
rounds what convolutions multiply to 10 bits: the distances to live autograd in float32 on the CPU show it. Both
libraries try each convolution's algorithms and take the fastest, which is onnxruntime's default and an option of
PyTorch's (`cudnn.benchmark`). onnxruntime's artifact is that of `--optimize-for cuda`: the default one is for a
CPU, and its map is another one on a GPU from 8 images on, so `exporter.load` refuses it there. A CUDA graph is a
recording of what the GPU is to do, so that Python and the library have no part in a call; `torch.compile` has its mode
`reduce-overhead` for it. Nothing is pinned to cores."""

CUDA_FLOAT32 = """\
The same with TF32 off in every library: what is multiplied has the 24 bits of float32."""

SESSION = """\
`first call`, `second` and `steady` are milliseconds; steady is the median of the last five of ten calls. Peak: the
largest resident memory of the process (`VmHWM`) after loading and ten calls, minus the same before loading, when
everything was imported and the images made. It counts what loading needs for a moment, and pages of files that are
mapped. Loading makes most of the peak, and the heap fits it sometimes better: the same file's peak differs by a tenth
and more from process to process. `after` is the resident memory (`VmRSS`) after the calls, minus that before. The ratio
of the peak is to onnxruntime's forward pass, OpenVINO's to its own. The eager rows load no file, they build the network
with random weights. Medians of the processes.

onnxruntime's memory pattern is a plan that its first call makes: one block for all that later calls need, which it
takes beside the memory of the first. `enable_mem_pattern = False` among the session's options does without; so do
`exporter.load` and the examples in Python and C++, and the races above have it beside the default. Those rows are held
against a forward pass without one."""

EXPORT = """\
From a network in memory to files on disk, with all the threads that there are, in a fresh process that has imported
everything before the clock starts; and once more in the same process. The artifact's time includes its proof. Medians
of the processes."""

SIZE = """\
PyTorch's export has its weights in the ONNX file here, as the artifact does."""

PROFILE = """\
onnxruntime names a node after what it fused into it; names with `.vjp` are of the backward pass. Medians over the
calls. Profiling itself takes time, so the sum is not the time of a call."""

GROWTH = """\
If both passes grow alike, the ratio is flat."""

METHOD = """\
## How it is measured

- **Processes.** Each network and batch has a process of its own, in which all contenders are loaded and take turns. The
  process is pinned to as many cores as there are threads before it imports anything, so no library can use more;
  besides, each is told the number (on a GPU neither): `intra_op_num_threads`, `INFERENCE_NUM_THREADS`,
  `torch.set_num_threads`, `OMP_NUM_THREADS`.
- **Rounds.** In each round every contender has one call that is not timed, because another's weights are in the caches,
  and then two that are; the mean of the two is its time in the round. The order of the turns changes with each round:
  once a Williams square of them is complete (as many rounds as contenders, of an odd number twice as many), each has
  followed each other one equally often. A race that takes long ends before; how many rounds it had stands below it.
  Python's garbage collector is off within a round. Before the first round each has a few calls.
- **Ratios** are taken within a round, and then summarised by their median and quartiles. A machine that is slower for a
  while changes them little.
- **The yardstick** is `torch.onnx.export(dynamo=True)` of the same network, with a dynamic batch as the artifact has,
  in onnxruntime at its default settings. The artifact has the same settings. That for finite values is exported with
  `--optimize-for onnxruntime-finite`, which does not stop NaN where the default does.
- **OpenVINO** has the batch's size set in both graphs before they are compiled, the latency hint, one stream, and f32
  as its inference precision. Its artifact is exported with `--optimize-for openvino`.
- **Peers** get the same network, its parameters frozen, so that autograd computes no gradient of weights for anybody.
  Captum hooks and pytorch-grad-cam replaces `nn.ReLU` modules; hooks do not go with in-place ones, so these two have
  the network with rectifiers that are not in place. "Channels last" is Captum with network and images in that memory
  format, which may suit PyTorch's convolutions better. pytorch-grad-cam explains one image at a time: for a batch it is
  called for each image.
- **Guided autograd** is the network with a `torch.autograd.Function` in place of each rectifier module, the fastest
  eager form that we know; for a network with functional rectifiers it is `exporter.reference`, the judge of the proofs,
  without the counting that only proofs need.
- **TorchScript's forward pass** is a frozen trace of the network. The artifact is frozen too.
- **Weights** are random, except where a network ships with trained ones. So are biases that all are zero, as before
  training: PyTorch's export would leave them out, and the yardstick would do less than that of a trained network. The
  images are random too, the same for everybody, and made before the clock starts; the class asked for is named."""
