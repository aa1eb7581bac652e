/* Additions that a compiler makes vectors of: the widest that it may use. */
int main(int argc, char **argv) {
    volatile int numbers[1024];
    int sum[1024];
    for (int i = 0; i < 1024; i++)
        numbers[i] = argc;
    for (int i = 0; i < 1024; i++)
        sum[i] = numbers[i];
    int all = 0;
    for (int round = 0; round < 64; round++)
        for (int i = 0; i < 1024; i++)
            all += sum[i] ^ (round * i);
    return all == 42 ? (int)(argv != 0) : 0;
}
