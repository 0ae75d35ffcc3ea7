"""Has serve.py run a script, with the streams of this process, and ends as it does.

    call.py SOCKET SCRIPT
"""

import socket
import sys

path, script = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as call:
    call.connect(path)
    socket.send_fds(call, [script.encode()], [0, 1, 2])
    # Whoever waits for the end of what is read or written waits for the script, not for this.
    code = call.recv(1)
sys.exit(code[0] if code else f"{script} ended without an exit code")
