"""Bytes between a session and the world: links, loops, clocks, link profiles and traces.

Nothing here knows a frame.  A session (see `fota_transport.session`) turns bytes and time into bytes
and events; this package carries the bytes, tells the time and calls the session when its deadline
has passed.  There are two ways to drive a session:

* many sessions on an asyncio loop: `face.SessionProtocol`, on a loop of `loops.new_event_loop` over
  real sockets, or on `simulated.SimulatedLoop` in virtual time;
* one session over one blocking link: `pump.pump`.
"""
