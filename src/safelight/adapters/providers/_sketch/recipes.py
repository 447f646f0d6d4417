"""The subjects' shapes, one drawing per name, back to front.

A drawing stands on the ground at (0, 0): x runs from about -50 to 50, y upwards to about 100. A line reads
`shape role numbers`; `shape*` paints the mirror image too, and `role/40` paints at 40 %.

    blob  x y x y …           closed curve            line  width x y x y …     open curve
    poly  x y x y …           straight edges          oval  x y rx ry [degrees]
    ring  x y n r rx ry       n ovals around a point  hoop  width x y r         circle line
"""

ANIMALS = {
    "fox": """
        blob base 8 4 30 2 46 16 48 38 38 54 32 40 28 24 14 16
        blob pale 48 38 38 54 32 41 38 40 43 33 46 28
        blob base -16 1 -21 22 -13 46 0 53 13 46 21 22 16 1
        blob pale -8 12 -9 34 0 46 9 34 8 12 0 7
        blob* dark 2 0 3 22 7 25 12 20 13 0
        poly* base 7 76 23 100 25 70
        poly* ink 13 78 21.5 92 22.5 74
        blob base -27 65 -20 77 0 83 20 77 27 65 13 52 0 44 -13 52
        blob* pale 0 44 8 56 14 64 27 65 13 52
        oval ink 0 47 3.6 2.6
        oval* ink 10 66 2.6 3.4
        oval* white 11 67.2 .9 1""",
    "cat": """
        line base 7 12 6 34 4 42 18 36 32 42 46
        blob base -16 0 -21 20 -14 44 0 52 14 44 21 20 16 0
        blob pale -8 16 -9 34 0 44 9 34 8 16 0 12
        blob* light 2 0 2 20 6 24 11 20 12 0
        poly* base 5 80 20 103 25 70
        poly* rose 12 82 19 95 22 76
        blob base -25 66 -20 80 0 86 20 80 25 66 15 53 0 49 -15 53
        poly dark -3 86 3 86 0 76
        poly* dark 6 85 10 84 6 77
        oval pale 0 57 9 6
        oval* eye 10 68 3.6 4.6
        oval* white 11.2 69.6 1.2 1.4
        blob rose -3.4 61 3.4 61 0 57
        line* ink .9 0 58 2 54.5 6 55
        line* ink/55 .7 12 59 28 62
        line* ink/55 .7 12 57 27 56""",
    "dog": """
        line base 8 14 8 32 18 38 34
        blob base -17 0 -21 20 -14 44 0 52 14 44 21 20 17 0
        blob pale -9 14 -10 36 0 46 10 36 9 14 0 8
        blob* light 2 0 2 22 7 26 13 22 14 0
        line accent 5 -14 49 0 44 14 49
        oval gold 0 41 3.4 3.4
        blob base -22 66 -19 82 0 89 19 82 22 66 14 54 0 50 -14 54
        blob pale -6 86 6 86 5 70 0 62 -5 70
        blob* dark 12 87 24 88 33 72 29 54 22 55 19 72
        oval pale 0 59 13 10
        blob rose -4 53 4 53 3 44 0 42 -3 44
        blob ink -5.5 66 5.5 66 4 61 0 59 -4 61
        line* ink .9 0 59 2 54.5 8 55
        oval* ink 10 72 2.8 3.5
        oval* white 11 73.5 1 1.2""",
    "rabbit": """
        oval pale 21 12 8 8
        blob base -18 0 -23 18 -14 40 0 47 14 40 23 18 18 0
        oval pale 0 22 11 15
        blob* light 3 0 3 7 10 9 17 6 17 0
        oval* base 9 90 6.5 22 8
        oval* rose 9.4 90 3.4 16 8
        oval base 0 60 21 18
        oval* pale 5 54 7 6
        oval* rose/60 14 55 4 3
        oval* eye 9.5 63 2.8 3.8
        oval* white 10.4 64.6 1 1.2
        blob rose -2.8 58.5 2.8 58.5 0 55.5""",
    "bear": """
        oval* base 19 5 12 8
        blob base -22 2 -27 26 -16 50 0 56 16 50 27 26 22 2
        oval pale 0 27 14 18
        oval* light 22 7 6 6
        oval* base 24 36 8 14 35
        oval* base 18 86 8.5 8.5
        oval* rose 18 86 4.6 4.6
        oval base 0 70 25 21
        oval pale 0 63 11 9
        oval ink 0 66.5 4.2 3
        line* ink 1 0 64 3 59.5 6 61
        oval* eye 11 74 2.5 3.2
        oval* white 11.8 75.2 .9 1""",
    "owl": """
        line wood 5 -46 2 46 2
        blob base -24 20 -28 56 -22 84 0 92 22 84 28 56 24 20 0 4
        poly* base 6 86 22 100 24 78
        blob pale -14 22 -16 48 0 58 16 48 14 22 0 10
        line* dark/60 1.4 2 44 6 41 10 44
        line dark/60 1.4 -4 36 0 33 4 36
        line* dark/60 1.4 5 29 9 26 12 29
        line dark/60 1.4 -4 22 0 19 4 22
        blob* dark 24 70 31 46 24 18 17 40
        oval* pale 11.5 72 12 12
        oval* gold 11 72 7.6 7.6
        oval* ink 10.5 72 4.4 4.4
        oval* white 12 74 1.5 1.5
        poly gold -4 67 4 67 0 57
        line* gold 3 5 4 5 0
        line* gold 3 10 4 10 0""",
    "bird": """
        blob light 6 58 8 84 22 104 28 98 24 76 18 58
        poly dark -22 52 -52 66 -46 56 -52 44 -24 44
        blob base -32 48 -10 37 14 38 30 48 31 61 20 68 4 62 -16 56
        blob pale -14 43 4 38 20 42 28 50 10 50
        poly gold 30 60 43 55 30 51
        oval eye 23 59.5 2.2 2.2
        oval white 23.7 60.2 .8 .8
        blob base -14 52 -30 82 -26 102 -10 92 6 74 14 54
        blob dark -14 60 -24 82 -22 94 -12 84 -2 70 2 58
        line light 1.2 -20 86 -8 72 -2 60""",
    "penguin": """
        oval* gold 9 1.5 9 3.5
        blob* deep 18 56 34 26 28 20 18 34
        blob deep -22 4 -26 34 -18 66 -17 84 0 98 17 84 18 66 26 34 22 4
        blob white -15 5 -19 32 -13 58 0 62 13 58 19 32 15 5
        oval* white 7 78 8 10
        oval* ink 6.5 80 2.4 3
        oval* white 7.3 81.3 .8 .9
        blob gold -5 74 5 74 0 67
        line accent 6 -17 63 0 58 17 63
        poly accent 6 60 13 61 14 42 7 42""",
    "fish": """
        poly dark -8 66 6 86 18 70
        poly dark -4 36 -10 20 10 32
        poly base -26 50 -50 74 -45 50 -50 26
        poly light/70 -30 50 -47 66 -44 50 -47 34
        blob base -32 50 -16 68 8 73 32 62 42 50 32 39 8 28 -16 33
        blob pale -24 45 -6 33 14 32 34 43 14 43
        line light 4 -12 66 -7 50 -12 35
        line light 4 2 71 7 51 2 31
        blob dark 8 50 -4 56 -8 46 2 42
        oval white 27 55 5 5
        oval ink 28.2 55 2.8 2.8
        oval white 29.2 56.2 .9 .9
        line ink/60 1 40 48 36 46""",
    "whale": """
        line white/80 2.4 6 74 4 90 -8 96
        line white/80 2.4 8 74 10 92 20 96
        blob base -34 30 -44 46 -58 54 -50 36 -60 26 -44 26
        blob base -44 30 -26 38 -8 66 18 70 42 56 46 32 30 12 0 8 -24 16
        blob pale -20 18 4 10 30 14 45 30 20 30 0 26
        line dark/60 1 0 24 20 26 42 30
        line dark/60 1 0 19 18 20 38 23
        oval eye 32 40 2.2 2.4
        oval white 32.8 41 .8 .8
        blob dark 2 26 -14 6 -8 2 12 20""",
    "butterfly": """
        blob* base 3 56 16 92 42 98 46 74 30 56
        blob* dark 3 54 30 54 38 32 22 12 8 24
        blob* light 10 62 20 84 38 88 38 72 24 60
        blob* accent 12 48 26 48 29 34 20 24
        oval* pale 39 88 2.4 2.4
        oval* pale 30 27 2.2 2.2
        blob ink -2.4 76 2.4 76 3 50 0 22 -3 50
        oval ink 0 79 3.4 3.4
        line* ink 1.1 1 82 6 96 13 101
        oval* ink 13 101 1.6 1.6""",
}

NATURE = {
    "tree": """
        poly wood -5 0 -4 50 4 50 6 0 12 -2 -12 -2
        line wood 4 1 28 14 46
        line wood 3.4 0 34 -12 48
        blob dark -34 44 -38 62 -22 74 0 70 24 74 38 58 30 42 8 36 -14 36
        blob base -30 56 -32 76 -14 92 4 90 24 88 34 70 26 52 6 48 -14 48
        blob light -20 72 -16 90 2 98 18 90 16 76 0 68
        ring light/50 -8 62 5 10 3 2
        ring dark/45 14 60 5 9 3 2""",
    "pine": """
        poly wood -4 0 -3 20 3 20 4 0
        poly base -30 12 0 46 30 12 14 15 0 11 -14 15
        poly base -25 32 0 66 25 32 12 35 0 31 -12 35
        poly base -19 53 0 84 19 53 9 56 0 52 -9 56
        poly base -12 72 0 100 12 72 5 74 0 71 -5 74
        poly light/50 0 100 -12 72 -5 74 -3 84
        poly light/50 -3 84 -19 53 -9 56 -5 66
        poly light/50 -5 66 -25 32 -12 35 -6 46
        poly light/50 -6 46 -30 12 -14 15 -8 26""",
    "palm": """
        line wood 6 -8 -2 -2 26 2 50 10 72
        blob dark 10 72 -8 84 -26 70 -34 50 -18 62
        blob dark 10 72 30 82 46 68 50 46 36 60
        blob base 10 72 -4 96 -26 96 -40 80 -18 86
        blob base 10 72 24 98 44 94 54 76 36 84
        blob light 10 72 4 92 10 106 20 104 18 88
        blob base 10 72 22 66 28 48 24 38 16 54
        oval wood 8 69 4 4.4
        oval wood 14 70 4 4""",
    "cactus": """
        blob base -9 -1 -11 50 -9 88 0 95 9 88 11 50 9 -1
        line base 11 8 34 26 36 28 62
        line base 10 -8 46 -25 48 -26 70
        line dark/60 1.6 0 4 0 88
        line dark/60 1.6 -5 4 -6 82
        line dark/60 1.6 5 4 6 82
        line light/70 1.4 27 40 27 62
        line light/70 1.4 -26 52 -26 70
        ring rose 0 97 5 4 2.2 4
        oval gold 0 97 2.4 2.4""",
    "flower": """
        line leaf 3.4 0 0 3 26 0 60
        blob leaf 2 14 16 34 32 36 24 18
        blob leaf 1 24 -14 44 -28 44 -20 26
        ring dark 0 72 8 17 7.5 12
        ring base 0 73 8 14 6.8 13
        ring light 0 73 8 9 2.6 8
        oval gold 0 73 9 9
        ring wood/60 0 73 8 5 1 1""",
    "mushroom": """
        blob pale -10 0 -8 24 -11 46 11 46 8 24 12 0
        oval dark 0 46 24 5
        blob base -38 46 -32 72 0 92 32 72 38 46 0 42
        oval white -6 78 6 5
        oval white 14 68 5 4.4
        oval white -20 62 4.6 4
        oval white 26 54 3.4 3
        oval white 2 56 4 3.4
        line leaf 2.4 -16 0 -20 14
        line leaf 2.4 17 0 22 12""",
    "cloud": """
        blob pale -44 40 -46 54 -32 62 -24 76 -4 82 14 74 24 66 42 60 46 46 40 38 0 36
        blob base/50 -44 40 -30 46 -8 42 16 48 44 42 40 37 0 35""",
    "apple": """
        blob base 0 70 -16 78 -36 66 -38 38 -24 8 -8 2 0 5 8 2 24 8 38 38 36 66 16 78
        oval dark 0 71 9 3.4
        line wood 3.4 0 69 2 80 8 90
        blob leaf 6 84 18 96 36 94 24 82
        oval white/45 -22 52 5 12 18""",
    "pumpkin": """
        oval* dark 26 30 20 27
        oval* base 14 30 20 30
        oval light 0 30 14 31
        line* dark/50 1.4 7 58 16 32 8 3
        poly leaf -4 58 -2 72 6 78 9 74 4 68 5 58
        line leaf 2 5 62 18 72 26 64 32 68""",
    "star": """
        poly dark 0 104 14.5 67 53 65 23 41 33 4 0 25 -33 4 -23 41 -53 65 -14.5 67
        poly base 0 98 13 64 47 62 20 41 29 8 0 28 -29 8 -20 41 -47 62 -13 64
        poly light 0 98 13 64 0 52
        poly light/70 -47 62 -13 64 0 52
        poly light/70 -29 8 0 28 0 52
        poly light/50 47 62 20 41 0 52""",
    "heart": """
        blob base 0 76 8 90 26 96 44 84 45 60 28 32 0 4 -28 32 -45 60 -44 84 -26 96 -8 90
        oval white/45 -28 74 6 10 -32
        oval white/35 -17 86 2.6 2.6""",
}

THINGS = {
    "kite": """
        line ink/70 .8 0 38 6 8 -8 -30 -16 -70 -8 -120
        line accent 1.8 0 8 10 -6 2 -22 14 -38 8 -54
        poly base 10 -6 19 -1 18 -12
        poly base 10 -6 1 -2 2 -13
        poly gold 2 -22 11 -18 10 -28
        poly gold 2 -22 -7 -18 -6 -28
        poly base 14 -38 23 -34 22 -44
        poly base 14 -38 5 -34 6 -45
        poly light 0 100 -32 64 0 64
        poly base 0 100 32 64 0 64
        poly base -32 64 0 8 0 64
        poly dark 32 64 0 8 0 64
        line white/80 1.3 0 100 0 8
        line white/80 1.3 -32 64 32 64""",
    "balloon": """
        line wood .9 -8 20 -20 42
        line wood .9 8 20 20 42
        line wood .9 -3 20 -6 36
        line wood .9 3 20 6 36
        poly wood -9 20 9 20 7 5 -7 5
        line dark 2 -9 20 9 20
        blob base -12 34 -30 52 -37 72 -26 94 0 103 26 94 37 72 30 52 12 34
        blob light -9 34 -19 52 -23 74 -16 94 0 103 -5 80 -7 56 -4 34
        blob light 9 34 19 52 23 74 16 94 0 103 5 80 7 56 4 34
        blob accent/85 -36 67 -18 62 0 61 18 62 36 67 36.5 75 18 70 0 69 -18 70 -36.5 75
        oval dark 0 34 12 2.6""",
    "boat": """
        poly wood -1.4 8 -1 104 1 104 1.6 8
        poly accent 1 104 16 99 1 94
        poly base 3 20 3 96 15 78 28 54 36 34 41 22
        poly light -3 22 -3 88 -15 66 -27 42 -34 24
        line dark/40 1 3 48 31 46
        line dark/40 1 3 70 20 68
        line dark/30 1 -3 52 -20 51
        blob deep -46 15 -20 12 16 12 48 16 38 1 28 -5 -28 -5 -38 1
        line white 2.2 -44 12.5 -20 9.5 16 9.5 46 13""",
    "house": """
        poly deep 14 60 14 92 23 92 23 56
        line white/60 5 19 98 24 106 17 113
        poly base -32 0 -32 44 0 76 32 44 32 0
        line dark/40 .9 -32 14 32 14
        line dark/40 .9 -32 28 32 28
        poly deep -42 40 0 86 42 40 37 35 0 75 -37 35
        poly wood -8 0 -8 27 8 27 8 0
        oval gold 5 13 1.4 1.4
        poly* white 13 15 13 34 27 34 27 15
        poly* glow 15 17 15 32 25 32 25 17
        line* white 1.2 20 17 20 32
        line* white 1.2 15 24.5 25 24.5
        oval white 0 53 7.4 7.4
        oval glow 0 53 5.6 5.6
        line* leaf 7 22 2 36 3 42 1""",
    "lighthouse": """
        blob grey -40 -4 -34 8 -14 12 10 10 30 9 42 -4
        poly white -15 8 -9 72 9 72 15 8
        poly base -14.4 14 -13 28 13 28 14.4 14
        poly base -11.8 42 -10.4 56 10.4 56 11.8 42
        poly glow/32 0 82 -120 104 -120 68
        poly deep -14 72 -14 76 14 76 14 72
        poly glow -7 76 -7 89 7 89 7 76
        line deep 1.2 0 76 0 89
        poly base -11 89 0 102 11 89
        oval deep 0 103 1.8 1.8
        poly deep -4 8 -4 18 4 18 4 8
        oval glow 0 35 2.4 3.4
        oval glow 0 64 2.2 3""",
    "castle": """
        poly dark -14 0 -14 74 -18 74 -18 82 -11 82 -11 78 -4 78 -4 82 4 82 4 78 11 78 11 82 18 82 18 74 14 74 14 0
        poly accent 0 82 0 104 16 98 2 92 2 82
        poly base -34 0 -34 40 -28 40 -28 36 -20 36 -20 40 -12 40 -12 36 -4 36 -4 40 4 40 4 36 12 36 12 40 20 40 20 36 28 36 28 40 34 40 34 0
        poly* base 26 0 26 58 23 58 23 64 49 64 49 58 46 58 46 0
        poly* accent 22 64 36 94 50 64
        oval* glow 36 46 3 5
        oval* glow 36 24 2.6 4.4
        oval* glow 6 60 2.4 4
        blob deep -9 -1 -9 16 0 25 9 16 9 -1
        line* dark 1 3 0 3 20
        line dark 1 -8 10 8 10""",
    "windmill": """
        poly base -17 0 -10 62 10 62 17 0
        blob dark -12 62 -8 74 0 79 8 74 12 62
        poly wood -5 0 -5 18 5 18 5 0
        oval glow 0 36 3.4 4
        line wood 2 0 68 30 98
        line wood 2 0 68 -30 98
        line wood 2 0 68 30 38
        line wood 2 0 68 -30 38
        poly white 5 76 25 96 31 88 11 70
        poly white -8 73 -28 93 -22 101 -2 79
        poly white 8 63 28 43 22 35 2 57
        poly white -5 60 -25 40 -31 48 -11 66
        oval deep 0 68 3.4 3.4""",
    "rocket": """
        blob glow/70 -11 18 -9 2 0 -26 9 2 11 18
        blob gold -7 18 -5 6 0 -12 5 6 7 18
        poly* base 10 40 28 22 26 8 10 20
        blob pale -13 18 -17 46 -13 78 0 104 13 78 17 46 13 18
        blob base -12 80 -6 96 0 104 6 96 12 80 0 83
        poly base -13.6 20 -15 30 15 30 13.6 20
        poly base -2.4 42 -2.4 12 2.4 12 2.4 42
        oval deep 0 62 8.4 8.4
        oval glass 0 62 6.2 6.2
        oval white/70 -2 64.5 1.8 2.2""",
    "car": """
        blob base -26 34 -18 56 4 60 22 54 32 34
        poly glass -19 36 -13.5 52 0 54 0 36
        poly glass 4 36 4 54 17 50.5 25 36
        blob base -48 12 -48 30 -34 38 0 38 34 37 48 28 49 12 0 9
        line dark/60 1 2 36 2 14
        line light 2 -44 26 0 28 44 25
        oval glow 46 25 3.6 4
        oval rose -47.4 27 2.2 3.6
        oval* ink 28 11 11.5 11.5
        oval* steel 28 11 6 6
        oval* grey 28 11 2.4 2.4
        line steel 3 -50 12 -42 11""",
    "robot": """
        line* grey 5 10 20 11 2
        oval* deep 12 2 9 4.4
        line* grey 5 22 46 34 38 34 24
        oval* base 34 21 5.4 5.4
        blob base -22 18 -24 48 -19 54 19 54 24 48 22 18
        poly pale -13 27 -13 45 13 45 13 27
        oval rose -6 39 2.6 2.6
        oval gold 2 39 2.6 2.6
        line accent 2.2 -9 32 -3 33 2 30 9 33
        poly grey -5 52 -5 60 5 60 5 52
        line grey 2 0 86 0 97
        oval accent 0 99 4 4
        oval* dark 27 72 4 7
        blob base -25 60 -27 84 -20 89 20 89 27 84 25 60 19 57 -19 57
        blob deep -19 65 -20 80 0 82 20 80 19 65 0 63
        oval* glow 9.5 73.5 4.8 5.4
        oval* white 10.8 75 1.5 1.7
        line glow 1.6 -5 67 0 65.5 5 67""",
    "person": """
        line deep 7 -5 30 -6 2
        line deep 7 5 30 8 2
        line ink 5 -6 1.6 -3 1.6
        line ink 5 8 1.6 12 1.6
        line base 6.4 12 58 20 44 19 34
        oval skin 19 31 3.2 3.2
        blob base -14 30 -14 52 -9 64 9 64 14 52 13 30
        line dark 6 -11 60 -19 46 -17 34
        oval skin -17 31 3.2 3.2
        poly skin -3 62 -3 70 3 70 3 62
        line accent 5 -8 65 0 63 8 65
        oval skin 0 79 10.5 12
        blob wood -12 78 -12 91 0 97 12 91 12 78 8 85 0 87 -8 85
        oval* ink 4 78 1.2 1.6
        oval* rose/60 6.4 74.4 2 1.3
        line ink .8 -2.4 72.6 0 71.6 2.4 72.6""",
    "girl": """
        blob wood -13 70 -15 88 0 98 15 88 13 70 15 58 0 54 -15 58
        line skin 5 -5 30 -5 3
        line skin 5 5 30 5 3
        line ink 5 -8 1.6 -4 1.6
        line ink 5 8 1.6 4 1.6
        line skin 4.6 9 58 19 46 21 36
        line skin 4.6 -9 58 -18 46 -20 36
        blob base -8 64 -11 44 -21 20 0 15 21 20 11 44 8 64
        line accent 3 -9.6 47 0 45 9.6 47
        poly skin -3 63 -3 70 3 70 3 63
        oval skin 0 79 10.5 12
        blob wood -11 76 -12 90 0 97 12 90 11 76 6 87 -2 90 -8 86
        oval* ink 4 78 1.2 1.6
        oval* rose/60 6.4 74.4 2 1.3
        line ink .8 -2.4 72.6 0 71.6 2.4 72.6""",
    "snowman": """
        line wood 2 20 46 40 60
        line wood 2 -20 46 -40 58
        oval white 0 18 25 20
        oval white 0 48 19 17
        oval white 0 74 14.5 14
        poly ink -12 85 -12 100 12 100 12 85
        line ink 3 -18 85 18 85
        poly base -12 86 -12 90 12 90 12 86
        line base 6 -13 62 0 58 13 62
        poly base 6 60 13 60 14 42 7 42
        oval* ink 5 77 1.8 2.2
        poly orange 0 75 16 71 0 71
        oval ink 0 51 1.8 1.8
        oval ink 0 43 1.8 1.8""",
    "umbrella": """
        line wood 2.6 0 96 0 12 5 3 12 6 13 13
        blob dark -46 58 -30 88 0 98 30 88 46 58 38 63 30 58 22 63 14 58 0 64 -14 58 -22 63 -30 58 -38 63
        blob base -30 59 -20 84 0 98 20 84 30 59 22 63 14 58 0 64 -14 58 -22 63
        blob light -14 58 -10 82 0 98 10 82 14 58 0 64
        oval accent 0 99 2 3""",
    "cup": """
        oval dark/60 0 4 46 7
        oval pale 0 6 44 7
        oval dark/30 0 7 26 3.6
        hoop base 6 34 34 12
        blob base -32 54 -30 26 -20 9 0 6 20 9 30 26 32 54
        oval light 0 54 32 7.4
        oval wood 0 53.4 28 5.8
        blob pale 0 50.6 -8 54 -4 56.6 0 55 4 56.6 8 54
        line white/55 3.4 -10 62 -14 72 -6 82 -11 94
        line white/45 3.4 8 62 12 74 5 84 9 98
        line white/35 2 -22 48 -20 30 -16 20""",
}

RECIPES = {**ANIMALS, **NATURE, **THINGS}
