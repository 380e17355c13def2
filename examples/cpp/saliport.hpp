// Runs a Saliport artifact from C++17: image, target -> logits, attribution. Copy this one file into your service.
//
// It needs onnxruntime's C++ API (headers 1.21 or newer) and nlohmann/json. With SALIPORT_NO_ONNXRUNTIME defined it
// needs the latter alone and gives `Manifest` without `Artifact`, for another runtime (see examples/libtorch).
//
// An artifact is data. The file names are fixed, so no path is ever taken from it; the model's bytes are hashed and
// opened from memory, so what was checked is what runs; a model that refers to other files or carries anything but
// plain operators is refused before onnxruntime sees it.
//
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#ifndef SALIPORT_NO_ONNXRUNTIME
#include <onnxruntime_cxx_api.h>
#endif

namespace saliport {

/// The one exception that leaves this header. what() is one line for a person, kind() is for a program.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    missing_file,  ///< The folder, its manifest or the model is missing, unreadable or not a regular file in it.
    bad_manifest,  ///< The manifest is not one that this header reads, or describes an artifact that it cannot run.
    changed_file,  ///< The manifest or the model is not, byte for byte, what was proven.
    bad_input,     ///< The image is null, or its shape is not one that the artifact takes; or an option makes no sense.
    bad_target,    ///< A target is neither -1 nor a class.
    runtime,       ///< The model was refused when it was opened or failed while it ran, or memory ran out.
  };

  Error(Kind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

/// What the artifact takes.
struct Input {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;  ///< Of one sample, without the batch; -1 where a size may vary.
};

struct Options {
  int threads = 1;                               ///< Inside one call. Calls may run side by side whatever it is.
  std::int64_t max_values = std::int64_t{1} << 28;  ///< Most values that an image batch, or its logits, may have.
};

/// What the artifact returns for a batch.
struct Explanation {
  std::int64_t batch, classes;
  std::vector<float> logits;                    ///< [batch, classes], row by row.
  std::vector<float> attribution;               ///< Raw values, in the image's shape.
  std::vector<std::int64_t> attribution_shape;  ///< The image's shape, with the batch.
};

namespace detail {

using Json = nlohmann::json;
using Kind = Error::Kind;

inline constexpr std::int64_t schema = 2;
inline constexpr std::uint64_t largest_manifest = std::uint64_t{4} << 20;
inline constexpr std::uint64_t largest_model = std::uint64_t{1} << 31;  // protobuf's own limit
inline constexpr int deepest_manifest = 32;

/// Shows text from outside in a message: shortened, and plain ASCII on one line whatever it holds.
inline std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 160)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte > 0x7e ? '?' : c;
  }
  return text.size() > 160 ? out + "..." : out;
}

inline std::string quoted(std::string_view text) { return std::string(1, '"').append(shown(text)).append(1, '"'); }

/// SHA-256 (FIPS 180-4) in lower-case hexadecimal, of pieces that follow each other.
class Sha256 {
 public:
  Sha256& update(std::string_view data) {
    length_ += data.size();
    if (filled_ > 0) {
      const std::size_t taken = std::min(data.size(), block_.size() - filled_);
      std::memcpy(block_.data() + filled_, data.data(), taken);
      filled_ += taken;
      data.remove_prefix(taken);
      if (filled_ < block_.size()) return *this;
      compress(block_.data());
      filled_ = 0;
    }
    for (; data.size() >= block_.size(); data.remove_prefix(block_.size()))
      compress(reinterpret_cast<const unsigned char*>(data.data()));
    if (!data.empty()) std::memcpy(block_.data(), data.data(), data.size());
    filled_ = data.size();
    return *this;
  }

  std::string hex() {
    const std::uint64_t bits = length_ * 8;
    const std::string padding((filled_ < 56 ? 56 : 120) - filled_, '\0');
    std::string end = "\x80" + padding.substr(1);
    for (int shift = 56; shift >= 0; shift -= 8) end += static_cast<char>(bits >> shift & 0xff);
    update(end);
    std::string out;
    for (const std::uint32_t word : state_)
      for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 15];
    return out;
  }

 private:
  static std::uint32_t rotate(std::uint32_t x, int by) { return x >> by | x << (32 - by); }

  void compress(const unsigned char* block) {
    static constexpr std::array<std::uint32_t, 64> constants = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    std::array<std::uint32_t, 64> w;
    for (std::size_t i = 0; i < 16; ++i)
      w[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
             std::uint32_t{block[4 * i + 2]} << 8 | std::uint32_t{block[4 * i + 3]};
    for (std::size_t i = 16; i < 64; ++i)
      w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
             (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t t1 =
          h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i];
      const std::uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> mixed = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += mixed[i];
  }

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

inline std::string sha256(std::string_view data) { return Sha256().update(data).hex(); }

/// Reads a regular file. Its size is known, and allowed, before memory is taken for it.
inline std::string read_file(const std::filesystem::path& path, std::uint64_t largest, Kind too_large) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status))
    throw Error(Kind::missing_file, path.string() + " is missing" + (error ? ": " + error.message() : ""));
  if (fs::is_symlink(status))
    throw Error(Kind::missing_file, path.string() + " is a symbolic link; an artifact's files lie in its own folder");
  if (!fs::is_regular_file(status)) throw Error(Kind::missing_file, path.string() + " is not a regular file");
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw Error(Kind::missing_file, path.string() + " cannot be read: " + error.message());
  if (size > largest)
    throw Error(too_large, path.string() + " has " + std::to_string(size) + " bytes; at most " +
                               std::to_string(largest) + " are read");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Kind::missing_file, path.string() + " cannot be read");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(file.gcount()) != size || file.peek() != std::ifstream::traits_type::eof())
    throw Error(Kind::changed_file, path.string() + " changed while it was read");
  return bytes;
}

/// A place in the manifest: a value, and what a message calls it.
class Node {
 public:
  Node(const Json& value, std::string name) : value_(value), name_(std::move(name)) {}

  Node operator[](const char* key) const {
    if (!has(key)) throw damaged("is missing", name_.empty() ? key : name_ + "." + key);
    return {value_.find(key).value(), name_.empty() ? key : name_ + "." + key};
  }
  bool has(const char* key) const { return value_.is_object() && value_.contains(key); }
  bool is_text() const { return value_.is_string(); }

  std::vector<Node> items() const {
    if (!value_.is_array()) throw damaged("is not a list");
    std::vector<Node> out;
    for (std::size_t i = 0; i < value_.size(); ++i) out.emplace_back(value_[i], name_ + "[" + std::to_string(i) + "]");
    return out;
  }
  std::string text() const {
    if (!value_.is_string()) throw damaged("is not text");
    return value_.get<std::string>();
  }
  std::int64_t integer(std::int64_t least, std::int64_t most) const {
    const bool whole = value_.is_number_integer();
    const bool fits = whole && (!value_.is_number_unsigned() || value_.get<std::uint64_t>() <= largest_integer);
    if (!fits || value_.get<std::int64_t>() < least || value_.get<std::int64_t>() > most)
      throw damaged("is not a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    return value_.get<std::int64_t>();
  }
  float number() const {
    const double found = value_.is_number() ? value_.get<double>() : std::numeric_limits<double>::infinity();
    if (!(std::abs(found) <= double{std::numeric_limits<float>::max()})) throw damaged("is not a finite number");
    return static_cast<float>(found);
  }

  Error damaged(const std::string& why) const { return damaged(why, name_); }

 private:
  static Error damaged(const std::string& why, const std::string& name) {
    return {Kind::bad_manifest, "the manifest is damaged: " + name + " " + why};
  }
  static constexpr std::uint64_t largest_integer = std::numeric_limits<std::int64_t>::max();

  const Json& value_;
  std::string name_;
};

/// Parses JSON that may be hostile: the parser does not recurse, and nothing deep is built.
inline Json parse(const std::string& text) {
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    if (depth > deepest_manifest) throw Error(Kind::bad_manifest, "the manifest is nested too deep");
    return true;
  };
  try {
    return Json::parse(text, shallow);
  } catch (const Json::exception& error) {
    throw Error(Kind::bad_manifest, "the manifest is not JSON: " + shown(error.what()));
  }
}

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

/// Lets nothing but an Error out of `body`.
template <typename Body>
auto guarded(const std::string& what, Body body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(Kind::runtime, what + ": out of memory");
  } catch (const std::exception& error) {
    throw Error(Kind::runtime, what + ": " + shown(error.what()));
  }
}

/// Refuses an ONNX model that is more than plain operators and the weights in it.
///
/// A tensor may say that its values lie in another file, or at an address. onnxruntime follows such a reference even of
/// a model that it is given as bytes: relative to the working directory (1.32), or anywhere (1.23). So the model's
/// protobuf is walked first. Saliport writes one flat graph: no subgraphs, functions, custom operators or training.
class PlainModel {
 public:
  static void check(std::string_view model) {
    // ir_version, producer_name, producer_version, domain, model_version, doc_string, graph, opset_import, metadata_props
    each(model, "the model", fields({1, 2, 3, 4, 5, 6, 7, 8, 14}), [](int field, std::string_view graph) {
      if (field != 7) return;
      // node, name, initializer, doc_string, input, output, value_info, quantization_annotation, metadata_props
      each(graph, "its graph", fields({1, 2, 5, 10, 11, 12, 13, 14, 16}), in_graph);
    });
  }

 private:
  static void in_graph(int field, std::string_view bytes) {
    // input, output, name, op_type, attribute, doc_string, domain, overload, metadata_props
    if (field == 1) each(bytes, "a node", fields({1, 2, 3, 4, 5, 6, 7, 8, 9}), in_node);
    if (field == 5) in_tensor(bytes);
  }
  static void in_node(int field, std::string_view bytes) {
    // name, f, i, s, t, floats, ints, strings, tensors, doc_string, tp, type, ref_attr_name
    if (field == 5) each(bytes, "an attribute", fields({1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 14, 20, 21}), in_attribute);
    if (field == 7 && !bytes.empty() && bytes != "ai.onnx") throw refused("a node is of domain " + quoted(bytes));
  }
  static void in_attribute(int field, std::string_view bytes) {
    if (field == 5 || field == 10) in_tensor(bytes);
  }
  static void in_tensor(std::string_view bytes) {
    // all but segment, external_data (13) and data_location (14)
    each(bytes, "a tensor", fields({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16}), [](int, std::string_view) {});
  }

  static constexpr std::uint32_t fields(std::initializer_list<int> numbers) {
    std::uint32_t bits = 0;
    for (const int number : numbers) bits |= std::uint32_t{1} << number;
    return bits;
  }

  /// Calls `visit(number, bytes)` for every field of a message that has bytes; a field that is not allowed is refused.
  template <typename Visit>
  static void each(std::string_view rest, const char* what, std::uint32_t allowed, Visit visit) {
    while (!rest.empty()) {
      const std::uint64_t tag = varint(rest);
      const std::uint64_t number = tag >> 3;
      if (number > 31 || !(allowed >> number & 1))
        throw refused(what + (" has the protobuf field " + std::to_string(number)));
      std::uint64_t length = 0;
      switch (tag & 7) {
        case 0: varint(rest); break;
        case 1: length = 8; break;
        case 2: length = varint(rest); break;
        case 5: length = 4; break;
        default: throw refused("the file is no protobuf");
      }
      if (length > rest.size()) throw refused("the file is no protobuf");
      if ((tag & 7) == 2) visit(static_cast<int>(number), rest.substr(0, static_cast<std::size_t>(length)));
      rest.remove_prefix(static_cast<std::size_t>(length));
    }
  }

  static std::uint64_t varint(std::string_view& rest) {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70 && !rest.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      value |= shift < 64 ? std::uint64_t{byte & 0x7fu} << shift : 0;
      if (byte < 0x80) return value;
    }
    throw refused("the file is no protobuf");
  }

  static Error refused(const std::string& what) { return {Kind::runtime, "it is not a model of Saliport's: " + what}; }
};

}  // namespace detail

/// What manifest.json says of an artifact with one float32 input, checked; and the checks of a call that follow from it.
class Manifest {
 public:
  /// Reads and checks a folder's manifest: its size, its schema's version, its seal and every entry that is used.
  static Manifest read(const std::filesystem::path& folder) {
    using detail::Kind;
    std::error_code error;
    if (!std::filesystem::is_directory(folder, error))
      throw Error(Kind::missing_file, folder.string() + " is not a folder" + (error ? ": " + error.message() : ""));
    const std::filesystem::path path = folder / "manifest.json";
    return detail::guarded(path.string() + " cannot be read", [&] {
      const std::string text = detail::read_file(path, detail::largest_manifest, Kind::bad_manifest);
      try {
        return Manifest(folder, text);
      } catch (const Error& found) {
        throw Error(found.kind(), path.string() + ": " + found.what());
      }
    });
  }

  /// Returns the bytes of one format's file, `onnx` or `torchscript`, which are those that were proven.
  std::string model(const std::string& format) const {
    using detail::Kind;
    const auto found = files_.find(format);
    if (found == files_.end())
      throw Error(Kind::missing_file, folder_.string() + " holds no " + format + " file; export it with --format");
    const File& file = found->second;
    const std::filesystem::path path = folder_ / file_name(format);
    std::string bytes = detail::guarded(
        path.string() + " cannot be read",
        [&] { return detail::read_file(path, detail::largest_model, Kind::changed_file); });
    if (bytes.size() != file.bytes)
      throw Error(Kind::changed_file, path.string() + " has changed since it was proven: " +
                                          std::to_string(bytes.size()) + " bytes, not " + std::to_string(file.bytes));
    const std::string sha256 = detail::sha256(bytes);
    if (sha256 != file.sha256)
      throw Error(Kind::changed_file,
                  path.string() + " has changed since it was proven: sha256 " + sha256 + ", not " + file.sha256);
    return bytes;
  }

  /// Checks the shape of a batch, and that neither it nor its logits have more than `most` values. Returns their number.
  std::int64_t check_shape(const std::vector<std::int64_t>& shape, std::int64_t most) const {
    using detail::Kind;
    const std::string given = image.name + " has shape " + detail::shape_text(shape);
    bool fits = shape.size() == dimensions_.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i)
      fits = !dimensions_[i].name.empty() || shape[i] == dimensions_[i].size;
    if (!fits) throw Error(Kind::bad_input, given + "; the artifact takes " + takes());
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const Dimension& dimension = dimensions_[i];
      if (!dimension.name.empty() && !dimension.allows(shape[i]))
        throw Error(Kind::bad_input, given + "; its " + dimension.name + " must be " + dimension.text());
    }
    std::int64_t values = 1;
    for (const std::int64_t size : shape) {
      if (size > most / values)
        throw Error(Kind::bad_input, given + "; at most " + std::to_string(most) + " values are allowed");
      values *= size;
    }
    if (shape[0] > most / classes)
      throw Error(Kind::bad_input, given + "; at most " + std::to_string(most) + " logits are allowed");
    return values;
  }

  /// Returns the targets of a batch, each -1 or a class; null stands for -1 throughout.
  std::vector<std::int64_t> check_target(const std::int64_t* target, std::int64_t batch) const {
    std::vector<std::int64_t> out(static_cast<std::size_t>(batch), -1);
    for (std::size_t i = 0; target && i < out.size(); ++i) {
      if (target[i] < -1 || target[i] >= classes)
        throw Error(detail::Kind::bad_target, "target " + std::to_string(target[i]) + " of sample " +
                                                  std::to_string(i) + " is out of range; classes are 0 to " +
                                                  std::to_string(classes - 1) + ", and -1 is the predicted one");
      out[i] = target[i];
    }
    return out;
  }

  /// The smallest shape that the artifact takes: one sample, every size that may vary at its least.
  std::vector<std::int64_t> smallest() const {
    std::vector<std::int64_t> shape;
    for (const Dimension& dimension : dimensions_)
      shape.push_back(dimension.name.empty() ? dimension.size : dimension.min);
    return shape;
  }

  Input image;
  std::int64_t classes = 0;
  std::vector<std::string> class_names;
  std::vector<float> mean, std_dev;
  std::string color, method;

 private:
  struct Dimension {
    std::string name;  // empty: the size is fixed
    std::int64_t size, min, multiple_of;
    std::int64_t max = std::numeric_limits<std::int64_t>::max();

    bool allows(std::int64_t value) const { return value >= min && value <= max && (value - min) % multiple_of == 0; }
    std::string text() const {
      const std::string least = std::to_string(min);
      const std::string most =
          max == std::numeric_limits<std::int64_t>::max() ? "" : ", at most " + std::to_string(max);
      return (multiple_of == 1 ? "at least " + least : least + " plus a multiple of " + std::to_string(multiple_of)) + most;
    }
  };
  struct File {
    std::uint64_t bytes;
    std::string sha256;
  };

  Manifest(const std::filesystem::path& folder, const std::string& text) : folder_(folder) {
    using detail::Kind;
    constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    const detail::Json json = detail::parse(text);
    const detail::Node root(json, "");
    if (!json.is_object()) throw Error(Kind::bad_manifest, "the manifest is not a JSON object");
    const auto version = json.find("schema");
    if (version == json.end() || !version->is_number_integer() || *version != detail::schema)
      throw Error(Kind::bad_manifest,
                  "schema " + (version == json.end() ? "none" : detail::shown(version->dump(-1, ' ', true))) +
                      "; this header reads " + std::to_string(detail::schema));
    check_seal(text);

    for (const char* format : {"onnx", "torchscript"}) {
      if (!root["files"].has(format)) continue;
      const detail::Node file = root["files"][format];
      if (file["name"].text() != file_name(format))
        throw file.damaged("names " + detail::quoted(file["name"].text()) + " where " + file_name(format) + " belongs");
      files_[format] = {static_cast<std::uint64_t>(file["bytes"].integer(1, largest)), file["sha256"].text()};
    }

    const std::vector<detail::Node> inputs = root["inputs"].items(), outputs = root["outputs"].items();
    if (inputs.size() != 2 || outputs.size() != 2) {
      std::string names;
      for (const detail::Node& input : inputs)
        if (input["name"].text() != "target") names += (names.empty() ? "" : ", ") + detail::shown(input["name"].text());
      throw Error(Kind::bad_manifest, "the artifact takes " + (names.empty() ? "nothing" : names) +
                                          "; this header runs artifacts that take one image");
    }
    image.name = inputs[0]["name"].text();
    image.dtype = inputs[0]["dtype"].text();
    if (image.dtype != "float32")
      throw Error(Kind::bad_manifest, "the artifact computes in " + detail::quoted(image.dtype) +
                                          "; this header runs artifacts of float32");
    read_shape(inputs[0]["shape"], root["dynamic"]);

    const std::vector<detail::Node> logits = outputs[0]["shape"].items();
    if (logits.size() != 2) throw outputs[0]["shape"].damaged("is not [batch, classes]");
    classes = logits[1].integer(1, std::int64_t{1} << 31);
    const std::vector<detail::Node> range = inputs[1]["range"].items();
    if (range.size() != 2 || range[0].integer(-1, -1) != -1 || range[1].integer(0, largest - 1) + 1 != classes)
      throw inputs[1]["range"].damaged("is not that of the classes");

    method = root["method"]["name"].text();
    const detail::Node model = root["model"];
    if (model.has("classes"))
      for (const detail::Node& name : model["classes"].items()) class_names.push_back(name.text());
    if (!class_names.empty() && static_cast<std::int64_t>(class_names.size()) != classes)
      throw model["classes"].damaged("does not name every class");
    if (model.has("preprocessing")) read_preprocessing(model["preprocessing"]);
  }

  /// The seal is the hash of the text as it would be without its last entry, which is the seal itself.
  static void check_seal(const std::string& text) {
    using detail::Kind;
    const std::string start = ",\n  \"manifest_sha256\": \"", end = "\"\n}\n";
    const std::size_t length = start.size() + 64 + end.size();
    const std::size_t at = text.size() < length ? 0 : text.size() - length;
    if (text.compare(at, start.size(), start) != 0 || text.compare(text.size() - end.size(), end.size(), end) != 0)
      throw Error(Kind::changed_file, "the manifest has changed since it was written: it does not end in its seal");
    const std::string found = detail::Sha256().update({text.data(), at}).update("\n}\n").hex();
    if (text.compare(at + start.size(), 64, found) != 0)
      throw Error(Kind::changed_file, "the manifest has changed since it was written: its manifest_sha256 does not match");
  }

  void read_shape(const detail::Node& shape, const detail::Node& dynamic) {
    constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    for (const detail::Node& size : shape.items()) {
      if (!size.is_text()) {
        dimensions_.push_back({"", size.integer(1, largest), 0, 1});
        continue;
      }
      bool known = false;
      for (const detail::Node& entry : dynamic.items()) {
        if (entry["name"].text() != size.text()) continue;
        known = true;
        const std::int64_t min = entry["min"].integer(1, largest);
        const std::int64_t most = entry.has("max") ? entry["max"].integer(min, largest) : largest;
        dimensions_.push_back({size.text(), -1, min, entry["multiple_of"].integer(1, largest), most});
        break;
      }
      if (!known) throw size.damaged("is " + detail::quoted(size.text()) + ", which dynamic does not describe");
    }
    if (dimensions_.empty() || dimensions_[0].name != "batch") throw shape.damaged("does not begin with the batch");
    for (std::size_t i = 1; i < dimensions_.size(); ++i) image.shape.push_back(dimensions_[i].size);
  }

  void read_preprocessing(const detail::Node& preprocessing) {
    for (const detail::Node& value : preprocessing["mean"].items()) mean.push_back(value.number());
    for (const detail::Node& value : preprocessing["std"].items()) {
      std_dev.push_back(value.number());
      if (!(std_dev.back() > 0)) throw value.damaged("is not greater than zero");
    }
    if (mean.empty() || mean.size() != std_dev.size()) throw preprocessing.damaged("has no mean and std of one length");
    color = preprocessing["color"].text();
    if (color != "RGB" && color != "L") throw preprocessing["color"].damaged("is neither RGB nor L");
    if (mean.size() != (color == "RGB" ? 3 : 1)) throw preprocessing.damaged("has not one mean and std for each channel");
  }

  std::string takes() const {
    std::string out = "[";
    for (const Dimension& dimension : dimensions_)
      out += (out.size() > 1 ? ", " : "") + (dimension.name.empty() ? std::to_string(dimension.size) : dimension.name);
    return out + "]";
  }

  static const char* file_name(const std::string& format) { return format == "onnx" ? "model.onnx" : "model.pt"; }

  std::filesystem::path folder_;
  std::map<std::string, File> files_;
  std::vector<Dimension> dimensions_;  // of the image, with the batch
};

#ifndef SALIPORT_NO_ONNXRUNTIME

/// A loaded artifact. One is enough for a process: `run` may be called from many threads at once.
class Artifact {
 public:
  /// Checks the manifest and the model's hash, then opens the very bytes that were hashed.
  explicit Artifact(const std::filesystem::path& folder, Options options = {})
      : manifest_(Manifest::read(folder)), options_(options) {
    if (options.threads < 1 || options.threads > 1024)
      throw Error(Error::Kind::bad_input, "threads is " + std::to_string(options.threads) + "; it must be 1 to 1024");
    if (!OrtGetApiBase()->GetApi(ORT_API_VERSION))
      throw Error(Error::Kind::runtime, std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() +
                                            " is older than the headers that this program was built with");
    const std::string bytes = manifest_.model("onnx");
    detail::guarded(folder.string() + "/model.onnx cannot be opened", [&] {
      detail::PlainModel::check(bytes);
      Ort::SessionOptions session;
      session.SetIntraOpNumThreads(options.threads);
      session.SetLogSeverityLevel(4);  // errors come as exceptions; do not print them as well
      session.DisableMemPattern();     // less memory, in the same time
      // Else onnxruntime goes by the first bytes, and takes what was checked as protobuf for a file of its own format.
      session.AddConfigEntry("session.load_model_format", "ONNX");
      env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "saliport");
      session_ = Ort::Session(env_, bytes.data(), bytes.size(), session);
      check_signature();
    });
  }

  /// Predicts and explains a batch.
  ///
  /// image: float32 [N, ...], row by row. shape: that, with the batch. target: N classes, -1 for the predicted one;
  /// null: the predicted one of every sample. All is checked before memory is taken.
  Explanation run(const float* image, const std::vector<std::int64_t>& shape, const std::int64_t* target) const {
    const std::int64_t values = manifest_.check_shape(shape, options_.max_values);
    if (!image) throw Error(Error::Kind::bad_input, manifest_.image.name + " is null");
    Explanation out{shape[0], manifest_.classes, {}, {}, shape};
    detail::guarded("onnxruntime cannot run the model", [&] {
      std::vector<std::int64_t> targets = manifest_.check_target(target, out.batch);
      out.logits.resize(static_cast<std::size_t>(out.batch * out.classes));
      out.attribution.resize(static_cast<std::size_t>(values));
      const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      const std::array<std::int64_t, 2> logits_shape = {out.batch, out.classes};
      // onnxruntime takes inputs as mutable, and only reads them.
      const std::array<Ort::Value, 2> inputs = {
          Ort::Value::CreateTensor<float>(memory, const_cast<float*>(image), out.attribution.size(), shape.data(),
                                          shape.size()),
          Ort::Value::CreateTensor<std::int64_t>(memory, targets.data(), targets.size(), &out.batch, 1)};
      std::array<Ort::Value, 2> outputs = {
          Ort::Value::CreateTensor<float>(memory, out.logits.data(), out.logits.size(), logits_shape.data(), 2),
          Ort::Value::CreateTensor<float>(memory, out.attribution.data(), out.attribution.size(), shape.data(),
                                          shape.size())};
      const std::array<const char*, 2> input_names = {manifest_.image.name.c_str(), "target"};
      const std::array<const char*, 2> output_names = {"logits", "attribution"};
      session_.Run(Ort::RunOptions(), input_names.data(), inputs.data(), 2, output_names.data(), outputs.data(), 2);
    });
    return out;
  }

  const Input& image() const noexcept { return manifest_.image; }
  std::int64_t classes() const noexcept { return manifest_.classes; }
  const std::vector<std::string>& class_names() const noexcept { return manifest_.class_names; }  ///< May be empty.
  const std::vector<float>& mean() const noexcept { return manifest_.mean; }                      ///< May be empty.
  const std::vector<float>& std_dev() const noexcept { return manifest_.std_dev; }                ///< May be empty.
  const std::string& color() const noexcept { return manifest_.color; }  ///< "RGB", "L" or "".
  const std::string& method() const noexcept { return manifest_.method; }

 private:
  /// Sees that the model takes and returns what the manifest says: `run` hands it memory of these types.
  void check_signature() const {
    const auto type = [](const Ort::TypeInfo& info) {
      return info.GetONNXType() == ONNX_TYPE_TENSOR ? info.GetTensorTypeAndShapeInfo().GetElementType()
                                                    : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    };
    const Ort::AllocatorWithDefaultOptions memory;
    bool fits = session_.GetInputCount() == 2 && session_.GetOutputCount() == 2;
    for (std::size_t i = 0; fits && i < 2; ++i)
      fits = session_.GetInputNameAllocated(i, memory).get() == (i ? "target" : manifest_.image.name) &&
             type(session_.GetInputTypeInfo(i)) ==
                 (i ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) &&
             session_.GetOutputNameAllocated(i, memory).get() == std::string(i ? "attribution" : "logits") &&
             type(session_.GetOutputTypeInfo(i)) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (!fits) throw Error(Error::Kind::bad_manifest, "the model's inputs and outputs are not those in the manifest");
  }

  Manifest manifest_;
  Options options_;
  Ort::Env env_{nullptr};
  mutable Ort::Session session_{nullptr};  // Run is safe to call from many threads, but is not declared const
};

#endif  // SALIPORT_NO_ONNXRUNTIME

}  // namespace saliport
