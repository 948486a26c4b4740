from lungsyn import progress


def test_a_log_gets_the_first_and_the_last_line_and_one_a_minute(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = progress.Progress("work", 100, "patches", done=20)
    for done in range(21, 101):
        clock[0] += 2
        bar.update(done, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work: 21/100 patches  0.5/s  2:38 left  loss 0.5")
    assert lines[-1].startswith("work: 100/100 patches  0.5/s  0:00 left")
    assert len(lines) == 4


def test_hours_are_shown_as_hours():
    assert progress.clock(3725) == "1:02:05"
    assert progress.clock(59.6) == "1:00"
    assert progress.clock(float("inf")) == "?"
