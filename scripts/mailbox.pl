#!/usr/bin/perl
# mailbox.pl DIR COUNT NAME : a Maildir with COUNT messages for the mailbox's owner NAME, the same at each call.
#
# What is there with that count is left alone. Headers are as long as today's usually are (2 to 3 KB, most of it
# signatures), bodies are a few KB with some much larger; every third message is unread.
use strict;
use warnings;

my ($dir, $count, $name) = @ARGV;
die "usage: mailbox.pl DIR COUNT NAME\n" unless @ARGV == 3;

# Written last, so that what an interrupted call left behind does not pass for a whole mailbox.
my $mark = "$dir/.complete";
if (open my $file, '<', $mark) {
    exit 0 if (<$file> // '') eq $count;
}
if (-e $dir) { system('rm', '-rf', $dir) == 0 or die "cannot remove $dir\n" }
for my $part ($dir, "$dir/cur", "$dir/new", "$dir/tmp") { mkdir $part or die "$part: $!\n" }

# A generator of our own: perl's gives other numbers on other systems.
my $state = 20_201_123;
sub below { $state = ($state * 1_103_515_245 + 12_345) % 2_147_483_648; return int($state / 65_536) % $_[0] }

my @words = qw(mail quarter invoice meeting again server green river the a of minutes attached draft please table
    for answer before Monday and station window small);
my $text = '';
while (length $text < 400_000) {
    $text .= join(' ', map { $words[below(scalar @words)] } 1 .. 9 + below(4)) . "\r\n";
}
my $signature = join '', map { "\t" . ('c2lnbmF0dXJl' x 6) . "\r\n" } 1 .. 5;

my @days = qw(Sun Mon Tue Wed Thu Fri Sat);
my @months = qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec);
my ($first, $last) = (1_577_836_800, 1_767_139_200);    # 2020-01-01 to 2025-12-31

for my $n (1 .. $count) {
    my $time = $first + int(($last - $first) * $n / ($count + 1));
    my ($s, $m, $h, $day, $month, $year, $weekday) = gmtime $time;
    my $date = sprintf '%s, %02d %s %04d %02d:%02d:%02d +0000',
        $days[$weekday], $day, $months[$month], $year + 1900, $h, $m, $s;
    my $accent = $n % 5 ? '' : ' =?UTF-8?Q?caf=C3=A9?=';
    my $size = $n % 40 ? 500 + below(6_000) : 20_000 + below(200_000);
    my $message = join '',
        "Return-Path: <from$n\@example.org>\r\n",
        "Received: from out.example.org (out.example.org [192.0.2.25])\r\n\tby in.example.com (Postfix) with ESMTPS id Q$n\r\n\tfor <$name\@example.com>; $date\r\n",
        (map { "$_: i=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; t=$time;\r\n$signature" }
            qw(DKIM-Signature ARC-Seal ARC-Message-Signature X-Filter-Result)),
        "Date: $date\r\nFrom: Sender $n <from$n\@example.org>\r\nTo: <$name\@example.com>\r\n",
        "Subject: Message $n of $count$accent\r\nMessage-ID: <$n.$time\@example.org>\r\n",
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        substr($text, below(100_000), $size), "\r\n";
    # Sizes in the name save Dovecot from reading each file to learn them (Maildir++).
    my $path = sprintf '%s/cur/%d.M%dP1.example,S=%d,W=%d:2,%s', $dir, $time, $n, length $message, length $message,
        $n % 3 ? 'S' : '';
    open my $file, '>', $path or die "$path: $!\n";
    print {$file} $message;
    close $file or die "$path: $!\n";
    utime $time, $time, $path;
}
open my $file, '>', $mark or die "$mark: $!\n";
print {$file} $count;
close $file or die "$mark: $!\n";
