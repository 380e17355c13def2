// Reads multipart/form-data (RFC 7578) that has arrived whole.
#pragma once

#include <string>
#include <string_view>
#include <vector>

struct Part {
  std::string name;
  std::string_view content;  ///< Points into the body.
};

/// Splits a body into its parts. Throws Problem 400 where it is malformed or has more than 16 of them.
std::vector<Part> parse_multipart(std::string_view body, std::string_view content_type);

/// Returns a header's parameter: parameter("form-data; name=\"a\"", "name") is "a". Empty where there is none.
std::string parameter(std::string_view header, std::string_view name);

/// Compares text of a protocol, in which upper and lower case are the same.
bool same(std::string_view a, std::string_view b);

/// Removes blanks at both ends.
std::string_view trimmed(std::string_view text);
