# How Doxygen reads our headers: the plain comment at the top is about the file.
0,/^#pragma once/ s|^// |/// |
s|^#pragma once$|/// @file|
