// Reads float32 .npy files and writes .npz archives, as numpy.load and numpy.savez do. A file is checked whole before
// memory is taken for its values: nothing in it is believed.
//
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "these files are little-endian, and are copied as they are"
#endif

namespace npy {

/// A file that cannot be read or written; what() is one line.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An array of float32, row by row.
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

namespace detail {

inline constexpr std::uintmax_t largest_file = std::uintmax_t{1} << 32;
inline constexpr std::size_t largest_header = 65536, largest_rank = 32;

/// Reads the header's Python dict: the three keys of the format, once each, in any order.
class Header {
 public:
  explicit Header(std::string_view text) : rest_(text) {
    expect('{');
    while (!taken('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && descr.empty()) {
        descr = string();
        if (descr.empty()) throw Error("its dtype is empty");
      } else if (key == "fortran_order" && !ordered_) {
        fortran_order = boolean();
        ordered_ = true;
      } else if (key == "shape" && !shaped_) {
        shape = tuple();
        shaped_ = true;
      } else {
        throw Error("its header has an entry that does not belong there, or twice");
      }
      if (!taken(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (!rest_.empty()) throw Error("its header does not end where it should");
    if (descr.empty() || !ordered_ || !shaped_) throw Error("its header lacks descr, fortran_order or shape");
  }

  std::string_view descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;

 private:
  void skip() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
  }
  bool taken(char wanted) {
    skip();
    if (rest_.empty() || rest_.front() != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char wanted) {
    if (!taken(wanted)) throw Error(std::string("its header lacks a ") + wanted);
  }
  std::string_view string() {
    const char quote = taken('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const std::size_t end = rest_.find(quote);
    if (end == std::string_view::npos || end > 64) throw Error("its header has text without an end");
    const std::string_view out = rest_.substr(0, end);
    for (const char c : out)
      if (c < 0x20 || c > 0x7e || c == '\\') throw Error("its header has characters that do not belong there");
    rest_.remove_prefix(end + 1);
    return out;
  }
  bool boolean() {
    skip();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (rest_.substr(0, word.size()) != word) continue;
      rest_.remove_prefix(word.size());
      return value;
    }
    throw Error("its fortran_order is neither True nor False");
  }
  std::int64_t integer() {
    skip();
    std::int64_t out = 0;
    std::size_t digits = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      if (digits == 18) throw Error("its shape has a size that no array has");
      out = out * 10 + (rest_[digits] - '0');
    }
    if (digits == 0) throw Error("its shape has something that is no size");
    rest_.remove_prefix(digits);
    return out;
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> out;
    expect('(');
    while (!taken(')')) {
      if (out.size() == largest_rank) throw Error("its shape has too many sizes");
      out.push_back(integer());
      if (taken(',')) continue;
      if (out.size() == 1) throw Error("its shape is no tuple");  // (3) is a number, (3,) a tuple
      expect(')');
      break;
    }
    return out;
  }

  std::string_view rest_;
  bool ordered_ = false, shaped_ = false;
};

inline void append(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> 8 * i & 0xff);
}

/// The CRC-32 that zip uses, of pieces that follow each other.
class Crc32 {
 public:
  void update(std::string_view data) {
    static const std::array<std::uint32_t, 256> table = [] {
      std::array<std::uint32_t, 256> out{};
      for (std::uint32_t i = 0; i < 256; ++i) {
        out[i] = i;
        for (int bit = 0; bit < 8; ++bit) out[i] = out[i] >> 1 ^ (out[i] & 1 ? 0xedb88320u : 0u);
      }
      return out;
    }();
    for (const char c : data) state_ = table[(state_ ^ static_cast<unsigned char>(c)) & 0xff] ^ state_ >> 8;
  }
  std::uint32_t value() const { return ~state_; }

 private:
  std::uint32_t state_ = 0xffffffff;
};

inline std::string header(const std::vector<std::int64_t>& shape) {
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (const std::int64_t size : shape) dict += std::to_string(size) + ",";
  dict += "), }";
  while ((10 + dict.size() + 1) % 64 != 0) dict += ' ';
  dict += '\n';
  std::string out = std::string("\x93NUMPY\x01\x00", 8);
  append(out, dict.size(), 2);
  return out + dict;
}

inline std::string_view bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

}  // namespace detail

/// Reads the bytes of a .npy file of float32 in C order.
inline Array parse(std::string_view bytes) {
  if (bytes.substr(0, 6) != "\x93NUMPY" || bytes.size() < 10) throw Error("it is no .npy file");
  const auto byte = [&](std::size_t i) { return std::size_t{static_cast<unsigned char>(bytes[i])}; };
  const std::size_t version = byte(6), start = version == 1 ? 10 : 12;
  if (version < 1 || version > 3 || byte(7) != 0) throw Error("its version of the .npy format is unknown");
  if (bytes.size() < start) throw Error("it ends too early");
  std::size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > detail::largest_header) throw Error("its header is too long");
  if (length > bytes.size() - start) throw Error("it ends too early");

  const detail::Header header(bytes.substr(start, length));
  if (header.descr != "<f4") throw Error("it holds " + std::string(header.descr) + ", not float32 (<f4)");
  if (header.fortran_order) throw Error("it is in Fortran order; save it with numpy.ascontiguousarray");
  const std::string_view data = bytes.substr(start + length);
  std::uint64_t values = 1;
  for (const std::int64_t size : header.shape) {
    if (size == 0) values = 0;  // sizes after it do not matter
    if (values > 0 && static_cast<std::uint64_t>(size) > data.size() / values) throw Error("it ends too early");
    values *= static_cast<std::uint64_t>(size);
  }
  if (data.size() != values * sizeof(float))
    throw Error(data.size() < values * sizeof(float) ? "it ends too early" : "it goes on after its last value");
  Array out{header.shape, std::vector<float>(static_cast<std::size_t>(values))};
  if (values > 0) std::memcpy(out.values.data(), data.data(), data.size());
  return out;
}

/// Reads a .npy file of float32 in C order.
inline Array load(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_regular_file(path, error))
    throw Error(path.string() + (fs::exists(path, error) ? " is not a file" : " is missing"));
  const std::uintmax_t size = fs::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) throw Error(path.string() + " cannot be read");
  if (size > detail::largest_file) throw Error(path.string() + " is too large");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) throw Error(path.string() + " cannot be read");
  try {
    return parse(bytes);
  } catch (const Error& found) {
    throw Error(path.string() + " cannot be used: " + found.what());
  }
}

/// Writes arrays into an uncompressed .npz, under these names. The file appears whole or not at all.
inline void save(const std::filesystem::path& path, const std::vector<std::pair<std::string, const Array*>>& arrays) {
  namespace fs = std::filesystem;
  fs::path part = path;
  part += ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  std::string directory;
  std::uint64_t at = 0;
  const auto write = [&](std::string_view bytes) {
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    at += bytes.size();
  };
  for (const auto& [name, array] : arrays) {
    const std::string header = detail::header(array->shape), entry = name + ".npy";
    const std::string_view data = detail::bytes_of(array->values);
    const std::uint64_t size = header.size() + data.size();
    if (at + size > std::numeric_limits<std::uint32_t>::max() / 2) {
      file.close();
      fs::remove(part);
      throw Error(path.string() + " would be too large for a zip file");
    }
    detail::Crc32 crc;
    crc.update(header);
    crc.update(data);
    std::string common;
    detail::append(common, 20, 2);        // the version of zip that a reader needs
    detail::append(common, 0, 4);         // no flags, stored
    detail::append(common, 0x00210000, 4);  // midnight on 1 January 1980: the same bytes on every day
    detail::append(common, crc.value(), 4);
    detail::append(common, size, 4);  // as stored
    detail::append(common, size, 4);  // and in truth
    detail::append(common, entry.size(), 2);
    detail::append(common, 0, 2);  // no extra field

    detail::append(directory, 0x02014b50, 4);
    detail::append(directory, 20, 2);
    directory += common;
    detail::append(directory, 0, 10);  // no comment, first disk, no attributes
    detail::append(directory, at, 4);
    directory += entry;

    std::string local;
    detail::append(local, 0x04034b50, 4);
    write(local + common + entry + header);
    write(data);
  }
  std::string end;
  detail::append(end, 0x06054b50, 4);
  detail::append(end, 0, 4);
  detail::append(end, arrays.size(), 2);
  detail::append(end, arrays.size(), 2);
  detail::append(end, directory.size(), 4);
  detail::append(end, at, 4);
  detail::append(end, 0, 2);
  write(directory + end);
  file.close();
  std::error_code error;
  if (file) fs::rename(part, path, error);
  if (!file || error) {
    std::error_code ignored;
    fs::remove(part, ignored);
    throw Error(path.string() + " cannot be written" + (error ? ": " + error.message() : ""));
  }
}

}  // namespace npy
