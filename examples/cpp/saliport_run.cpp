// saliport_run: runs an artifact in onnxruntime. See door.hpp for its command line.
#include "door.hpp"

int main(int argc, char** argv) {
  return door::enter(argc, argv, "saliport_run", [](const std::string& folder, int threads) {
    saliport::Options options;
    options.threads = threads;
    return saliport::Artifact(folder, options);
  });
}
