// What the service counts, in Prometheus' text format.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

class Metrics {
 public:
  /// Counts an answered request. `path` is one that the service knows, or "other": what a client made up is no label.
  void answered(const std::string& path, int status);

  /// Counts a request that was turned away unread: "queue", "connections", "memory" or "shutdown".
  void rejected(const std::string& reason);

  /// Records how long an explanation took, from the request's first byte until its answer was ready.
  void took(double seconds);

  /// Writes everything, and the gauges given.
  std::string text(const std::map<std::string, double>& gauges) const;

 private:
  static constexpr std::array<double, 13> bounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                    0.25,  0.5,    1,     2.5,  5,     10};
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> answered_;
  std::map<std::string, std::uint64_t> rejected_ = {{"connections", 0}, {"memory", 0}, {"queue", 0}, {"shutdown", 0}};
  std::array<std::uint64_t, bounds.size() + 1> buckets_{};
  double sum_ = 0;
};
