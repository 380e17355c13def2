// The command line that the runners share: ARTIFACT INPUT.npy [--target T] --output out.npz, or --repeat N to measure.
//
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "npy.hpp"
#include "saliport.hpp"

namespace door {

inline constexpr const char* usage =
    " ARTIFACT INPUT.npy [--target T[,T...]] [--output OUT.npz] [--repeat N] [--threads T]\n"
    "  INPUT.npy    float32 [N, ...]\n"
    "  --target     one class for all samples, or one for each; -1 (the default) is the predicted class\n"
    "  --output     where logits and attribution go, as numpy.load reads them\n"
    "  --repeat     measure N calls after warming up, and print their latency and the peak memory\n"
    "  --threads    inside one call; 1 if not given\n";

struct Request {
  std::string artifact, input, output;
  std::vector<std::int64_t> target = {-1};
  int repeat = 0, threads = 1;
};

/// A wrong use of the command line.
class Usage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline std::int64_t integer(std::string_view text, const std::string& option) {
  std::int64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size())
    throw Usage(option + " takes whole numbers, not \"" + std::string(text) + "\"");
  return out;
}

inline int count(std::string_view text, const std::string& option) {
  const std::int64_t out = integer(text, option);
  if (out < 1 || out > 1000000) throw Usage(option + " takes a number from 1 to 1000000");
  return static_cast<int>(out);
}

inline Request read(const std::vector<std::string>& arguments) {
  Request out;
  std::vector<std::string> places;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& option = arguments[i];
    if (option.rfind("--", 0) != 0) {
      places.push_back(option);
      continue;
    }
    if (option != "--target" && option != "--output" && option != "--repeat" && option != "--threads")
      throw Usage("unknown option " + option);
    if (++i == arguments.size()) throw Usage(option + " needs a value");
    const std::string& value = arguments[i];
    if (option == "--output") out.output = value;
    if (option == "--repeat") out.repeat = count(value, option);
    if (option == "--threads") out.threads = count(value, option);
    if (option != "--target") continue;
    out.target.clear();
    for (std::size_t start = 0, end; start <= value.size(); start = end + 1) {
      end = std::min(value.find(',', start), value.size());
      out.target.push_back(integer(std::string_view(value).substr(start, end - start), option));
    }
  }
  if (places.size() != 2) throw Usage("give an artifact's folder and an input, or --help");
  if (out.output.empty() && out.repeat == 0) throw Usage("give --output, --repeat or both");
  out.artifact = places[0];
  out.input = places[1];
  return out;
}

/// Peak resident memory in MiB. On Linux not from getrusage: it counts what the parent had before exec.
inline double peak_mebibytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) / 1024;
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
#ifdef __APPLE__
  return static_cast<double>(used.ru_maxrss) / (1 << 20);
#else
  return static_cast<double>(used.ru_maxrss) / (1 << 10);
#endif
}

/// Calls `body` and returns how long it took, in milliseconds.
template <typename Body>
double timed(Body body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// The nearest rank: the smallest value that `percent` of all do not exceed.
inline double percentile(const std::vector<double>& sorted, double percent) {
  const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

/// Does what the command line says. `open(folder, threads)` returns an object with `run`, as saliport::Artifact has.
///
/// The first three calls are measured by themselves: a runtime may still be compiling then.
template <typename Open>
void serve(const Request& request, Open open) {
  const npy::Array image = npy::load(request.input);
  std::vector<std::int64_t> target = request.target;
  const std::size_t batch = image.shape.empty() ? 0 : static_cast<std::size_t>(image.shape[0]);
  if (target.size() == 1) target.resize(std::min(batch, image.values.size()), target[0]);
  if (target.size() != batch)
    throw Usage("--target names " + std::to_string(target.size()) + " classes for " + std::to_string(batch) + " samples");

  const auto start = std::chrono::steady_clock::now();
  const auto artifact = open(request.artifact, request.threads);
  const double loading = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  saliport::Explanation found;
  const auto call = [&] { found = artifact.run(image.values.data(), image.shape, target.data()); };
  const double first = timed(call);
  if (!request.output.empty()) {
    const npy::Array logits{{found.batch, found.classes}, std::move(found.logits)};
    const npy::Array attribution{found.attribution_shape, std::move(found.attribution)};
    npy::save(request.output, {{"logits", &logits}, {"attribution", &attribution}});
  }
  if (request.repeat == 0) return;
  const double second = timed(call), third = timed(call);
  for (int i = 0; i < 7; ++i) call();
  std::vector<double> times;
  for (int i = 0; i < request.repeat; ++i) times.push_back(timed(call));
  std::sort(times.begin(), times.end());
  std::printf("load %.1f ms; calls 1, 2, 3: %.2f %.2f %.2f ms\n", loading, first, second, third);
  std::printf("batch %lld, threads %d, %d calls: p50 %.2f, p90 %.2f, p99 %.2f ms; peak memory %.0f MiB\n",
              static_cast<long long>(found.batch), request.threads, request.repeat, percentile(times, 50),
              percentile(times, 90), percentile(times, 99), peak_mebibytes());
}

/// A runner's main. Exit status 0; 2 for wrong use, 1 when the runtime failed, each with one line that says what.
template <typename Open>
int enter(int argc, char** argv, const std::string& name, Open open) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
    std::cout << "usage: " << name << usage;
    return 0;
  }
  const auto fail = [&](const std::exception& error, int status) {
    std::cerr << name << ": " << error.what() << std::endl;
    return status;
  };
  try {
    serve(read(arguments), open);
    return 0;
  } catch (const Usage& error) {
    return fail(error, 2);
  } catch (const npy::Error& error) {
    return fail(error, 2);
  } catch (const saliport::Error& error) {
    return fail(error, error.kind() == saliport::Error::Kind::runtime ? 1 : 2);
  } catch (const std::exception& error) {
    return fail(error, 1);
  }
}

}  // namespace door
