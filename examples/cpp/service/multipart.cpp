#include "multipart.hpp"

#include <algorithm>

#include "problem.hpp"

namespace {

constexpr std::size_t most_parts = 16, largest_head = 4096;

char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

Problem malformed(const std::string& why) { return {400, "bad_multipart", "the multipart body " + why}; }

/// Returns the name that a part's headers give it.
std::string name_of(std::string_view head) {
  std::string name;
  while (!head.empty()) {
    const std::size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    const std::size_t colon = line.find(':');
    if (colon == line.npos) throw malformed("has a part with a header that is none");
    const std::string_view key = trimmed(line.substr(0, colon)), value = trimmed(line.substr(colon + 1));
    if (same(key, "Content-Disposition")) name = parameter(value, "name");
    if (same(key, "Content-Transfer-Encoding") && !same(value, "binary") && !same(value, "8bit") && !same(value, "7bit"))
      throw malformed("has a part with a Content-Transfer-Encoding, which form data has not");
  }
  if (name.empty()) throw malformed("has a part without a name");
  return name;
}

}  // namespace

bool same(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  return first == text.npos ? std::string_view() : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::string parameter(std::string_view header, std::string_view name) {
  std::size_t at = header.find(';');
  while (at < header.size()) {
    const std::size_t equals = header.find('=', ++at);
    if (equals == header.npos) return {};
    const std::string_view key = trimmed(header.substr(at, equals - at));
    std::string value;
    at = equals + 1;
    if (at < header.size() && header[at] == '"') {
      for (++at; at < header.size() && header[at] != '"'; ++at) {
        if (header[at] == '\\' && at + 1 < header.size()) ++at;
        value += header[at];
      }
      at = std::min(header.find(';', at), header.size());
    } else {
      const std::size_t end = std::min(header.find(';', at), header.size());
      value = trimmed(header.substr(at, end - at));
      at = end;
    }
    if (same(key, name)) return value;
  }
  return {};
}

std::vector<Part> parse_multipart(std::string_view body, std::string_view content_type) {
  const std::string boundary = parameter(content_type, "boundary");
  if (boundary.empty() || boundary.size() > 70) throw malformed("has no boundary of 1 to 70 characters in its Content-Type");
  const std::string delimiter = "\r\n--" + boundary;
  std::vector<Part> parts;
  // The first delimiter may stand at the very beginning, without the line break.
  const bool at_once = body.substr(0, delimiter.size() - 2) == std::string_view(delimiter).substr(2);
  std::size_t at = at_once ? 0 : body.find(delimiter);
  if (at == body.npos) throw malformed("does not contain its boundary");
  at += delimiter.size() - (at_once ? 2 : 0);
  while (body.substr(at, 2) != "--") {
    const std::size_t line = body.find("\r\n", at);
    if (line == body.npos || !trimmed(body.substr(at, line - at)).empty()) throw malformed("is cut short");
    const std::size_t blank = body.substr(line, largest_head).find("\r\n\r\n");
    if (blank == body.npos) throw malformed("has a part whose headers do not end");
    const std::size_t start = line + blank + 4, end = body.find(delimiter, start - 2);
    if (end == body.npos) throw malformed("is cut short");
    if (parts.size() == most_parts) throw malformed("has more than " + std::to_string(most_parts) + " parts");
    parts.push_back({name_of(blank ? body.substr(line + 2, blank - 2) : std::string_view()),
                     body.substr(start, end < start ? 0 : end - start)});
    at = end + delimiter.size();
  }
  return parts;
}
