// ask FOLDER [SHAPE [TARGET,...]]: opens an artifact and runs it on zeros; prints `kind: text` of the error, or `fine`.
//
// The image is null where its values would not fit in memory: a shape is to be refused before the image is looked at.
// The environment's THREADS and MAX_VALUES are the options.
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "../saliport.hpp"

static std::vector<std::int64_t> numbers(const std::string& text) {
  std::vector<std::int64_t> out;
  std::istringstream in(text);
  for (std::string item; std::getline(in, item, ',');) out.push_back(std::stoll(item));
  return out;
}

static const char* name(saliport::Error::Kind kind) {
  using Kind = saliport::Error::Kind;
  switch (kind) {
    case Kind::missing_file: return "missing_file";
    case Kind::bad_manifest: return "bad_manifest";
    case Kind::changed_file: return "changed_file";
    case Kind::bad_input: return "bad_input";
    case Kind::bad_target: return "bad_target";
    case Kind::runtime: return "runtime";
  }
  return "unknown";
}

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    saliport::Options options;
    if (const char* threads = std::getenv("THREADS")) options.threads = std::atoi(threads);
    if (const char* values = std::getenv("MAX_VALUES")) options.max_values = std::atoll(values);
    const saliport::Artifact artifact(words.at(0), options);
    if (words.size() > 1) {
      const std::vector<std::int64_t> shape = numbers(words[1]);
      double values = 1;
      for (const std::int64_t size : shape) values *= static_cast<double>(size);
      const std::vector<float> zeros(values > 0 && values < 1e7 ? static_cast<std::size_t>(values) : 0);
      const std::vector<std::int64_t> target = words.size() > 2 ? numbers(words[2]) : std::vector<std::int64_t>();
      artifact.run(zeros.empty() ? nullptr : zeros.data(), shape, target.empty() ? nullptr : target.data());
    }
    std::cout << "fine: " << artifact.method() << ' ' << artifact.color() << ' ' << artifact.classes() << ' '
              << artifact.image().name << ' ' << saliport::detail::shape_text(artifact.image().shape) << '\n';
  } catch (const saliport::Error& error) {
    std::cout << name(error.kind()) << ": " << error.what() << '\n';
  }
}
