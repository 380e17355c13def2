// mutate FOLDER SCRATCH ROUNDS: hands broken .npy files, manifests and models to the code that reads them, in one
// process under sanitizers. Each must be refused by the documented exception, or read as what it says; nothing else.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#define SALIPORT_NO_ONNXRUNTIME
#include "../npy.hpp"
#include "../saliport.hpp"

static std::mt19937 generator(7);

static std::size_t below(std::size_t end) { return end ? generator() % end : 0; }

static const std::vector<std::string> words = {
    "-1", "0", "1", "2", "1e999", "-0.0", "9223372036854775807", "9223372036854775808", "18446744073709551616", "null",
    "true", "[]", "{}", "\"\"", "\"../../etc/passwd\"", "\"model.onnx\"", "[[[[[[", "]", "}", ",", ":", "\"", "\\u0000",
    "'", "(", ")", "(0,)", "(4294967296,4294967296)", "'<f8'", "'>f4'", "'|O'", "True", "\xff\xfe", "\xf0\x9f\x98\x80",
    std::string(1, '\0'), std::string(200, '['), std::string(300, 'a'), "{\"a\":", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"};

/// Changes up to three places: a bit, a byte, a word, a piece doubled, dropped or moved, or the end cut off.
static std::string mutated(std::string bytes) {
  for (std::size_t changes = below(4); changes > 0 && !bytes.empty(); --changes) {
    const std::size_t at = below(bytes.size()), length = 1 + below(std::min<std::size_t>(bytes.size() - at, 24));
    switch (below(7)) {
      case 0: bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8)); break;
      case 1: bytes[at] = static_cast<char>(below(256)); break;
      case 2: bytes.insert(at, words[below(words.size())]); break;
      case 3: bytes.replace(at, length, words[below(words.size())]); break;
      case 4: bytes.insert(below(bytes.size()), bytes.substr(at, length)); break;
      case 5: bytes.erase(at, length); break;
      default: bytes.resize(at);
    }
  }
  return bytes;
}

static std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Counts what was read and what was refused by an exception of type E; any other exception ends the program.
template <typename E>
static void rounds(const char* what, int count, const std::function<void()>& once) {
  int read = 0, refused = 0;
  for (int i = 0; i < count; ++i) {
    try {
      once();
      ++read;
    } catch (const E& error) {
      for (const char c : std::string(error.what()))
        if (c == '\n') std::abort();
      ++refused;
    }
  }
  std::printf("%s: %d read, %d refused\n", what, read, refused);
}

/// Puts a value of the manifest in the place of another, or one of `words`, so that what is broken is not the JSON.
static void graft(nlohmann::json& json) {
  const nlohmann::json flat = json.flatten();
  std::vector<nlohmann::json::json_pointer> places;
  for (const auto& item : flat.items()) places.emplace_back(item.key());
  for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
    nlohmann::json::json_pointer at = places[below(places.size())];
    for (std::size_t up = below(3); up > 0 && !at.empty(); --up) at.pop_back();
    if (at.empty() || !json.contains(at)) continue;
    const nlohmann::json word = nlohmann::json::parse(words[below(words.size())], nullptr, false);
    const nlohmann::json::json_pointer& from = places[below(places.size())];
    if (below(2) && json.contains(from)) json[at] = nlohmann::json(json[from]);
    else json[at] = word.is_discarded() ? nlohmann::json(static_cast<std::int64_t>(generator()) - 1000) : word;
  }
}

int main(int, char** argv) {
  const std::filesystem::path folder = argv[1], scratch = argv[2];
  const int count = std::atoi(argv[3]);

  const std::string header = npy::detail::header({2, 3, 1}), array = header + std::string(24, '\1');
  rounds<npy::Error>(".npy", 4 * count, [&] {
    const npy::Array read = npy::parse(mutated(array));
    std::int64_t values = 1;
    for (const std::int64_t size : read.shape) values *= size;
    if (static_cast<std::size_t>(values) != read.values.size()) std::abort();
  });
  rounds<npy::Error>(".npy header", count, [&] {
    const std::string text = mutated(header.substr(10));
    std::string start = header.substr(0, 8);
    npy::detail::append(start, text.size(), 2);
    npy::parse(start + text + std::string(24, '\1'));
  });

  // The seal is put right again, or nothing behind it would be reached.
  const std::string sealed = contents(folder / "manifest.json");
  const std::string plain = sealed.substr(0, sealed.rfind(",\n  \"manifest_sha256\""));
  const auto read = [&](const std::string& broken) {
    const std::string seal = saliport::detail::sha256(broken + "\n}\n");
    std::ofstream(scratch / "manifest.json", std::ios::binary) << broken << ",\n  \"manifest_sha256\": \"" << seal << "\"\n}\n";
    const saliport::Manifest manifest = saliport::Manifest::read(scratch);
    std::vector<std::int64_t> shape = manifest.smallest();
    for (std::int64_t& size : shape)
      if (below(4) == 0) size = below(2) ? static_cast<std::int64_t>(generator()) << below(33) : -1;
    try {
      manifest.check_shape(shape, 1 << 20);
      manifest.check_target(std::vector<std::int64_t>(static_cast<std::size_t>(shape[0]), 1).data(), shape[0]);
    } catch (const saliport::Error&) {  // the manifest was read; this call is not one of the artifact's
    }
  };
  rounds<saliport::Error>("manifest text", count, [&] { read(mutated(plain)); });
  rounds<saliport::Error>("manifest values", count, [&] {
    nlohmann::json json = nlohmann::json::parse(sealed);
    json.erase("manifest_sha256");
    graft(json);
    const std::string text = json.dump(2);
    read(text.substr(0, text.size() - 2));
  });

  const std::string model = contents(folder / "model.onnx");
  rounds<saliport::Error>("model", count, [&] { saliport::detail::PlainModel::check(mutated(model)); });
}
