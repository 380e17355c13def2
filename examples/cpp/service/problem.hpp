// Why a request is not answered as it was meant.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

/// An HTTP status, a word for programs and a sentence for people. The answer is {"error": {"code", "message"}}.
struct Problem : std::runtime_error {
  Problem(int status, std::string code, const std::string& message)
      : std::runtime_error(message), status(status), code(std::move(code)) {}

  int status;
  std::string code;
};
