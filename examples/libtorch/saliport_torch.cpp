// saliport_torch: runs an artifact in libtorch. See ../cpp/door.hpp for its command line; beside that, --cold leaves out
// the warming up, to show in a measurement what it saves the first callers.
#include "saliport_torch.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include "door.hpp"

int main(int argc, char** argv) {
  char** const end = std::remove_if(argv + 1, argv + argc, [](std::string_view word) { return word == "--cold"; });
  const bool warm_up = end == argv + argc;
  return door::enter(static_cast<int>(end - argv), argv, "saliport_torch", [&](const std::string& folder, int threads) {
    saliport::Options options;
    options.threads = threads;
    return saliport::TorchArtifact(folder, options, warm_up);
  });
}
