// warm FOLDER: prints what TorchScript's executor has made of an artifact's graph: before a first call, after it and
// after the second, where the artifact was opened cold; and before a first call where it was warmed up.
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "../saliport_torch.hpp"

namespace {

const char* state() {
  const auto graph = torch::jit::lastExecutedOptimizedGraph();
  if (!graph) return "untouched";
  for (const torch::jit::Node* node : graph->nodes())
    if (node->kind() == torch::jit::prim::profile) return "watched";
  return "compiled";
}

}  // namespace

int main(int, char** argv) {
  {
    const saliport::TorchArtifact cold(argv[1], {}, false);
    const std::vector<std::int64_t> shape = cold.manifest().smallest();
    std::int64_t values = 1;
    for (const std::int64_t size : shape) values *= size;
    const std::vector<float> zeros(static_cast<std::size_t>(values));
    std::printf("cold: %s", state());
    for (int call = 0; call < 2; ++call) {
      cold.run(zeros.data(), shape, nullptr);
      std::printf(" %s", state());
    }
  }
  std::printf("\nafter: %s", state());
  const saliport::TorchArtifact warm(argv[1]);
  std::printf("\nwarm: %s\n", state());
}
