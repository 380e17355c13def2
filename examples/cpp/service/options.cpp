#include "options.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& text, const std::string& what) {
  throw std::invalid_argument(name + " " + text + ": it must be " + what);
}

/// Reads a whole number, which with `units` may end in K, M or G (powers of 1024).
std::int64_t whole(const std::string& name, std::string text, std::int64_t least, std::int64_t most, bool units = false) {
  const std::string given = text, what = "a number from " + std::to_string(least) + " to " + std::to_string(most);
  int shift = 0;
  if (units && !text.empty()) {
    const std::size_t unit = std::string("KMG").find(text.back());
    if (unit != std::string::npos) {
      shift = 10 * int(unit + 1);
      text.pop_back();
    }
  }
  if (text.empty() || text.size() > 15 || text.find_first_not_of("0123456789") != text.npos) refuse(name, given, what);
  const std::int64_t value = std::stoll(text);
  if (value > most >> shift || value << shift < least) refuse(name, given, what);
  return value << shift;
}

std::chrono::milliseconds seconds(const std::string& name, const std::string& text) {
  std::size_t read = 0;
  double value = 0;
  try {
    value = std::stod(text, &read);
  } catch (const std::exception&) {
  }
  if (read == 0 || read != text.size() || !(value >= 0.1 && value <= 3600)) refuse(name, text, "seconds from 0.1 to 3600");
  return std::chrono::milliseconds(std::llround(value * 1000));
}

struct Flag {
  const char *name, *value, *help;
  std::function<void(Options&, const std::string&, const std::string&)> set;
};

const std::vector<Flag>& flags() {
  using S = const std::string&;
  constexpr std::int64_t gib = std::int64_t{1} << 30;
  static const std::vector<Flag> all = {
      {"--artifact", "FOLDER", "The artifact to serve. Required.",
       [](Options& o, S, S text) { o.explain.artifact = text; }},
      {"--host", "ADDRESS", "Where to listen. [127.0.0.1]", [](Options& o, S, S text) { o.host = text; }},
      {"--port", "PORT", "0 takes any free one. [8080]",
       [](Options& o, S name, S text) { o.port = int(whole(name, text, 0, 65535)); }},
      {"--workers", "N", "Images that are explained at once. [one for each processor]",
       [](Options& o, S name, S text) { o.workers = std::size_t(whole(name, text, 1, 1024)); }},
      {"--queue", "N", "Images that may wait for a worker; 503 beyond. [64]",
       [](Options& o, S name, S text) { o.queue = std::size_t(whole(name, text, 0, 100'000)); }},
      {"--max-body", "BYTES", "Largest body of a request; K, M, G. [10M]",
       [=](Options& o, S name, S text) { o.http.max_body = std::size_t(whole(name, text, 1, gib, true)); }},
      {"--body-memory", "BYTES", "For the bodies of all requests; 503 beyond. [256M]",
       [=](Options& o, S name, S text) { o.http.body_memory = std::size_t(whole(name, text, 1, 64 * gib, true)); }},
      {"--max-pixels", "N", "Largest image, width times height; K, M. [16M]",
       [=](Options& o, S name, S text) { o.explain.max_pixels = whole(name, text, 1, gib, true); }},
      {"--timeout", "SECONDS", "To receive a request, and again to send its answer. [10]",
       [](Options& o, S name, S text) { o.http.timeout = seconds(name, text); }},
      {"--idle", "SECONDS", "Between the requests of a connection. [5]",
       [](Options& o, S name, S text) { o.http.idle = seconds(name, text); }},
      {"--connections", "N", "Connections at once; 503 beyond. [256]",
       [](Options& o, S name, S text) { o.http.connections = std::size_t(whole(name, text, 1, 900)); }},
      {"--size", "HxW", "Height and width, for an artifact that leaves them open.",
       [](Options& o, S name, S text) {
         const std::size_t x = text.find('x');
         if (x == text.npos) refuse(name, text, "HEIGHTxWIDTH");
         o.explain.size = {int(whole(name, text.substr(0, x), 1, 8192)), int(whole(name, text.substr(x + 1), 1, 8192))};
       }},
  };
  return all;
}

}  // namespace

Options parse_options(int count, const char* const* words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    std::string name = words[i], text;
    if (name == "--help" || name == "-h") {
      options.help = true;
      return options;
    }
    const std::size_t equals = name.find('=');
    if (equals != name.npos) {
      text = name.substr(equals + 1);
      name.resize(equals);
    }
    const Flag* found = nullptr;
    for (const Flag& flag : flags())
      if (name == flag.name) found = &flag;
    if (!found) throw std::invalid_argument("there is no option " + name + "; see --help");
    if (equals == std::string::npos) {
      if (++i == count) throw std::invalid_argument(name + " lacks its " + found->value);
      text = words[i];
    }
    found->set(options, name, text);
  }
  if (options.explain.artifact.empty()) throw std::invalid_argument("--artifact FOLDER is required; see --help");
  if (options.http.max_body > options.http.body_memory)
    throw std::invalid_argument("--max-body exceeds --body-memory, so that no body would fit");
  return options;
}

std::string usage() {
  std::string out = "saliport_service --artifact FOLDER [options]\n\nExplains images over HTTP: POST /v1/explain.\n\n";
  for (const Flag& flag : flags()) {
    const std::string left = std::string("  ") + flag.name + " " + flag.value;
    out += left + std::string(left.size() < 26 ? 26 - left.size() : 1, ' ') + flag.help + "\n";
  }
  return out + "  --help                  This text.\n\nSIGTERM or SIGINT: finish the requests that have begun, and end.\n";
}
