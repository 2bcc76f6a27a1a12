std = "lua54"
max_line_length = 140
cache = true
exclude_files = { "build*/", ".git/" }
