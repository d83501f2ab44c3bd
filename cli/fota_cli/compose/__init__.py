"""Where server and simulator meet: a server as a process, a fleet against it, and the page that shows what happened.

`server_process` runs `fota serve`; `local_server` gives it a folder, devices and a journal to read; `demo` and the
pytest fixtures stand on these. `page` and `charts` turn figures into text and know nothing else.
"""
