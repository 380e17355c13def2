#include "metrics.hpp"

#include <algorithm>
#include <sstream>

void Metrics::answered(const std::string& path, int status) {
  const std::lock_guard lock(mutex_);
  ++answered_[{path, status}];
}

void Metrics::rejected(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  ++rejected_[reason];
}

void Metrics::took(double seconds) {
  const std::lock_guard lock(mutex_);
  ++buckets_[std::size_t(std::lower_bound(bounds.begin(), bounds.end(), seconds) - bounds.begin())];
  sum_ += seconds;
}

std::string Metrics::text(const std::map<std::string, double>& gauges) const {
  const std::lock_guard lock(mutex_);
  std::ostringstream out;
  out.precision(12);
  const auto begin = [&](const std::string& name, const char* type, const char* help) {
    out << "# HELP " << name << ' ' << help << "\n# TYPE " << name << ' ' << type << '\n';
  };
  begin("saliport_requests_total", "counter", "Answered requests.");
  for (const auto& [key, count] : answered_)
    out << "saliport_requests_total{path=\"" << key.first << "\",status=\"" << key.second << "\"} " << count << '\n';
  begin("saliport_rejected_total", "counter", "Requests turned away because there was no room for them.");
  for (const auto& [reason, count] : rejected_)
    out << "saliport_rejected_total{reason=\"" << reason << "\"} " << count << '\n';
  begin("saliport_explain_seconds", "histogram", "From the first byte of an explained request until its answer was ready.");
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    count += buckets_[i];
    out << "saliport_explain_seconds_bucket{le=\"";
    i < bounds.size() ? out << bounds[i] : out << "+Inf";
    out << "\"} " << count << '\n';
  }
  out << "saliport_explain_seconds_sum " << sum_ << "\nsaliport_explain_seconds_count " << count << '\n';
  for (const auto& [name, value] : gauges) out << "# TYPE " << name << " gauge\n" << name << ' ' << value << '\n';
  return out.str();
}
