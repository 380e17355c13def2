// threads FOLDER THREADS: opens an artifact in one thread and calls it in another, which no thread pool has met before;
// prints how many threads the process has then, beside the one that waits.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <thread>
#include <vector>

#include "../saliport_torch.hpp"

int main(int, char** argv) {
  saliport::Options options;
  options.threads = std::atoi(argv[2]);
  const saliport::TorchArtifact artifact(argv[1], options, false);
  std::vector<std::int64_t> shape = artifact.manifest().smallest();
  shape[0] = 64;  // enough work to be shared out
  std::int64_t values = 1;
  for (const std::int64_t size : shape) values *= size;
  const std::vector<float> zeros(static_cast<std::size_t>(values));
  std::thread([&] {
    for (int call = 0; call < 3; ++call) artifact.run(zeros.data(), shape, nullptr);
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    std::printf("%d\n", static_cast<int>(std::distance(begin(tasks), end(tasks))) - 1);
  }).join();
}
